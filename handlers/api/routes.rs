//! The paths below `/api`.

use flexkeep_functions::{Method, StatusCode};

use super::{Refusal, known_routes};

/// Methods and paths, for people.
pub(super) const ROUTES: [(&str, &str); 6] = [
    ("GET", "status"),
    ("GET", "backups?server=NAME"),
    ("GET", "backups/BACKUP"),
    ("POST", "backups"),
    ("GET", "restores?what=restore|drill&request=REQUEST"),
    ("POST", "restores"),
];

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Backups,
    Backup(String),
    BackUpNow,
    Restore,
    RestoreNow,
}

impl Route {
    pub(super) fn find(method: &Method, path: &str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let not_allowed = |allowed: &str| {
            let message = format!("/api/{path} takes {allowed}, not {method}");
            Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message))
        };
        match (parts.as_slice(), method) {
            (["status"], &Method::GET) => Ok(Self::Status),
            (["backups"], &Method::GET) => Ok(Self::Backups),
            (["backups"], &Method::POST) => Ok(Self::BackUpNow),
            (["restores"], &Method::GET) => Ok(Self::Restore),
            (["restores"], &Method::POST) => Ok(Self::RestoreNow),
            (["backups", id], &Method::GET) => Ok(Self::Backup((*id).to_owned())),
            // As in SERVER/latest.
            (["backups", server, latest], &Method::GET) => {
                Ok(Self::Backup(format!("{server}/{latest}")))
            }
            (["status"] | ["backups", _], _) => not_allowed("GET"),
            (["backups"] | ["restores"], _) => not_allowed("GET and POST"),
            _ => {
                let message = format!("there is no /api/{path}; there are {}", known_routes());
                Err(Refusal::new(StatusCode::NOT_FOUND, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_they_should() {
        let get = |path| Route::find(&Method::GET, path).map_err(|refusal| refusal.status);
        assert_eq!(get("status"), Ok(Route::Status));
        assert_eq!(get("status/"), Ok(Route::Status));
        assert_eq!(get("backups"), Ok(Route::Backups));
        assert_eq!(get("backups/shop/latest"), Ok(Route::Backup("shop/latest".to_owned())));
        assert_eq!(get("backups/x-1"), Ok(Route::Backup("x-1".to_owned())));
        for path in ["", "nothing", "status/x", "backups/a/b/c"] {
            assert_eq!(get(path), Err(StatusCode::NOT_FOUND), "{path}");
        }
        let post = |path| Route::find(&Method::POST, path).map_err(|refusal| refusal.status);
        assert_eq!(post("backups"), Ok(Route::BackUpNow));
        assert_eq!(
            (get("restores"), post("restores")),
            (Ok(Route::Restore), Ok(Route::RestoreNow))
        );
        assert_eq!(post("status"), Err(StatusCode::METHOD_NOT_ALLOWED));
        let Err(refusal) = Route::find(&Method::GET, "nothing") else { panic!("no such route") };
        assert!(refusal.message.contains("POST /api/backups"), "{}", refusal.message);
    }
}
