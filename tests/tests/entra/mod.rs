//! A stand-in for Entra: it hands out tokens as a managed identity's endpoint does, and says to the
//! server whose they are, by LDAP, so that several are good at a time and a long one fits.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use flexkeep_tests::DUMP_USER;

/// The value of `IDENTITY_HEADER`.
pub(crate) const HEADER: &str = "header-of-the-app";

/// What is known of tokens.
#[derive(Default)]
pub(crate) struct Tokens {
    /// How long the next ones live, seconds; none are given if it is zero.
    pub(crate) life: u64,
    /// How many there were ever.
    count: u32,
    /// Those that were given out, in order.
    pub(crate) issued: Vec<String>,
    /// Those that are good.
    pub(crate) good: BTreeSet<String>,
    /// Those that were shown by somebody who connects, in order.
    pub(crate) shown: Vec<String>,
}

pub(crate) struct Entra {
    tokens: Arc<Mutex<Tokens>>,
    /// The value of `IDENTITY_ENDPOINT`.
    pub(crate) endpoint: String,
    ldap_port: u16,
}

impl Entra {
    /// Starts both sides of it.
    pub(crate) fn start(life: u64) -> Self {
        let tokens = Arc::new(Mutex::new(Tokens { life, ..Tokens::default() }));
        let endpoint = serve(&tokens, identity);
        let ldap_port = serve(&tokens, directory);
        Self { tokens, endpoint: format!("http://127.0.0.1:{endpoint}/msi/token"), ldap_port }
    }

    pub(crate) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().expect("no panic")
    }

    /// The line of pg_hba.conf that asks it.
    pub(crate) fn hba(&self) -> String {
        format!(
            "hostssl all {DUMP_USER} all ldap ldapserver=127.0.0.1 ldapport={} ldapprefix=\"cn=\"",
            self.ldap_port
        )
    }

    /// The tokens that were shown since the last call, and those that were given out.
    pub(crate) fn take(&self) -> (Vec<String>, Vec<String>) {
        let mut tokens = self.tokens();
        (std::mem::take(&mut tokens.shown), std::mem::take(&mut tokens.issued))
    }
}

fn serve(
    tokens: &Arc<Mutex<Tokens>>,
    answer: fn(&Mutex<Tokens>, TcpStream) -> io::Result<()>,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let tokens = Arc::clone(tokens);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tokens = Arc::clone(&tokens);
            // Who hangs up early is no matter.
            thread::spawn(move || drop(answer(&tokens, stream)));
        }
    });
    port
}

/// The endpoint of App Service, 2019-08-01.
fn identity(tokens: &Mutex<Tokens>, mut stream: TcpStream) -> io::Result<()> {
    let mut right = false;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        right |= line.eq_ignore_ascii_case(&format!("x-identity-header: {HEADER}"));
        if line.is_empty() {
            break;
        }
    }
    let mut tokens = tokens.lock().expect("no panic");
    let (status, body) = if !right || tokens.life == 0 {
        (400, r#"{"statusCode":400,"message":"No identity was found for this app"}"#.to_owned())
    } else {
        // As long as a real one.
        tokens.count += 1;
        let token = format!("eyJ.{}.{}", tokens.count, "t".repeat(1900));
        tokens.issued.push(token.clone());
        tokens.good.insert(token.clone());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let expires = now + tokens.life;
        let body = format!(
            r#"{{"access_token":"{token}","expires_on":"{expires}","token_type":"Bearer","resource":"r"}}"#
        );
        (200, body)
    };
    drop(tokens);
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An LDAP server that knows simple binds.
fn directory(tokens: &Mutex<Tokens>, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let (_, message) = element(&mut stream)?;
        let mut message = message.as_slice();
        let (_, id) = element(&mut message)?;
        let (kind, bind) = element(&mut message)?;
        if kind != 0x60 {
            return Ok(());
        }
        let mut bind = bind.as_slice();
        let (_, _version) = element(&mut bind)?;
        let (_, name) = element(&mut bind)?;
        let (_, password) = element(&mut bind)?;
        let token = String::from_utf8_lossy(&password).into_owned();
        let mut tokens = tokens.lock().expect("no panic");
        let good = name == format!("cn={DUMP_USER}").as_bytes() && tokens.good.contains(&token);
        tokens.shown.push(token);
        drop(tokens);
        // 49: invalid credentials.
        let result = [0x0a, 1, if good { 0 } else { 49 }, 4, 0, 4, 0];
        let mut answer = vec![2, u8::try_from(id.len()).expect("an integer")];
        answer.extend_from_slice(&id);
        answer.extend_from_slice(&[0x61, 7]);
        answer.extend_from_slice(&result);
        let mut all = vec![0x30, u8::try_from(answer.len()).expect("a short answer")];
        all.extend_from_slice(&answer);
        stream.write_all(&all)?;
    }
}

/// The tag and the content of the next element of BER.
fn element(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    from.read_exact(&mut head)?;
    let mut length = usize::from(head[1]);
    if length >= 0x80 {
        let mut more = vec![0; (length & 0x7f).min(4)];
        from.read_exact(&mut more)?;
        length = more.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    }
    let mut content = vec![0; length.min(1 << 16)];
    from.read_exact(&mut content)?;
    Ok((head[0], content))
}
