#!/usr/bin/env python3
"""A small AMQP 1.0 broker that stands in for Azure Service Bus in tests.

It is made of Apache Qpid Proton, another implementation of AMQP than the one it tests, and does
what a sender sees of Service Bus: tokens by put-token on $cbs, queues and topics by name (kept in
memory, made when first used), outcomes, batches of messages, duplicate detection. It checks that
there was a token for the entity, not that the token is any good. It listens on 127.0.0.1 only.

What happens is written to LOG, one JSON object a line, before the other side is told:
  listening                          connections are taken from now on
  connection                         container, hostname: of whoever opened it
  put-token                          name, type, expiration, token_bytes (never the token itself)
  attach                             role (sends, receives), address
  refused                            address, why
  message                            a message came: entity, id, group, subject, correlation,
                                     content_type, properties, annotations (timestamps are
                                     milliseconds), body, batch (how many came with it),
                                     duplicate (its id was stored before), stored
  end                                a connection ended, and why

Entities whose last part has a name of these behave as Service Bus does in that case:
  missing     there is none: the link is refused with amqp:not-found
  full        each message is rejected with amqp:resource-limit-exceeded
  forbidden   the link is refused with amqp:unauthorized-access
and these go wrong with the first message, which is not stored, and work from then on:
  released    it is given back
  busy        it is rejected with com.microsoft:server-busy
  idle        the link is closed with amqp:link:detach-forced, and the message has no outcome
  expired     the same with amqp:unauthorized-access, as after the end of a token
  silent      nothing happens
"""

import argparse
import collections
import json
import os
import signal
import sys
import threading
import time

from proton import Condition, Data, Delivery, Message, SSLDomain, int32, timestamp, ulong
from proton.handlers import IncomingMessageHandler, MessagingHandler
from proton.reactor import Container

DATA_SECTION = 0x75
# How a link ends for the first message to an entity of that name.
CLOSING = {
    "idle": ("amqp:link:detach-forced", "The link is force detached. Details: Idle timeout."),
    "expired": ("amqp:unauthorized-access", "ExpiredToken: The token is expired."),
}
CREDIT = 1000


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("log", help="the file that is written to, at its end")
    parser.add_argument("--bad-token", action="store_true", help="refuse every token with 401")
    parser.add_argument("--no-dedup", action="store_true", help="store duplicates too")
    parser.add_argument("--settle-delay", type=float, default=0, metavar="MS",
                        help="time between a message and its outcome")
    parser.add_argument("--max-message-size", type=int, default=262144, metavar="BYTES")
    parser.add_argument("--until-stdin-closes", action="store_true",
                        help="end with whoever holds the other end of standard input")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="PEM files")
    return parser.parse_args()


def data_sections(raw):
    """The bytes of the data sections of an encoded message."""
    while raw:
        data = Data()
        size = data.decode(raw)
        data.rewind()
        data.next()
        section = data.get_object()
        if section.descriptor == DATA_SECTION:
            yield bytes(section.value)
        raw = raw[size:]


def decoded(raw):
    message = Message()
    message.decode(raw)
    return message


def unpacked(raw):
    """The messages of a delivery: of a batch, each data section is one."""
    sections = list(data_sections(raw))
    return [decoded(section) for section in sections] if len(sections) > 1 else [decoded(raw)]


def jsonable(value):
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(key): jsonable(one) for key, one in value.items()}
    if isinstance(value, (timestamp, int)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, (str, float, bool)) or value is None:
        return value
    return repr(value)


class Later:
    """Something to do when a timer ends."""

    def __init__(self, work):
        self.work = work

    def on_timer_task(self, _event):
        self.work()


class Broker(MessagingHandler):
    def __init__(self, args):
        super().__init__(auto_accept=False, prefetch=0)
        # Batches need the raw bytes, which this one would have read already.
        self.handlers = [h for h in self.handlers if not isinstance(h, IncomingMessageHandler)]
        self.args = args
        self.log = open(args.log, "a", buffering=1, encoding="utf-8")
        self.queues = collections.defaultdict(collections.deque)
        self.consumers = collections.defaultdict(list)
        self.seen = collections.defaultdict(set)
        self.gone_wrong = set()
        # By connection: the names that a token was shown for, and the links for answers.
        self.authorized = collections.defaultdict(set)
        self.replies = {}

    def tell(self, event, **fields):
        line = {"event": event, "time": round(time.time(), 3)}
        line.update((name, jsonable(value)) for name, value in fields.items())
        self.log.write(json.dumps(line) + "\n")

    def on_start(self, event):
        self.container = event.container
        address = "127.0.0.1:%d" % self.args.port
        if self.args.tls:
            domain = SSLDomain(SSLDomain.MODE_SERVER)
            domain.set_credentials(*self.args.tls, None)
            event.container.ssl.server = domain
            event.container.listen("amqps://" + address, ssl_domain=domain)
        else:
            event.container.listen(address)
        self.tell("listening", port=self.args.port)

    def on_connection_opening(self, event):
        connection = event.connection
        self.tell("connection", container=connection.remote_container,
                  hostname=connection.remote_hostname)

    def on_link_opening(self, event):
        link = event.link
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode = link.remote_snd_settle_mode
        link.rcv_settle_mode = link.remote_rcv_settle_mode
        if link.is_sender:
            address = link.remote_source.address
            if address == "$cbs":
                # Its target is the reply-to of the requests.
                self.replies[(hash(event.connection), link.remote_target.address)] = link
            else:
                self.consumers[address].append(link)
            self.tell("attach", role="receives", address=address)
            return
        address = link.remote_target.address
        link.max_message_size = ulong(self.args.max_message_size)
        refusal = self.refusal(event.connection, address)
        if refusal:
            self.tell("refused", address=address, why=refusal[0])
            link.target.type = 0
            link.condition = Condition(*refusal)
            link.open()
            link.close()
            return
        self.tell("attach", role="sends", address=address)
        link.flow(CREDIT)

    def refusal(self, connection, address):
        last = address.split("/")[-1]
        if last == "missing":
            return "amqp:not-found", "The messaging entity could not be found."
        names = self.authorized[hash(connection)]
        shown = any(name.split("://", 1)[-1].split("/", 1)[-1] == address for name in names)
        if last == "forbidden" or (address != "$cbs" and not shown):
            return "amqp:unauthorized-access", "Unauthorized access. 'Send' claim is required."
        return None

    def on_delivery(self, event):
        link, delivery = event.link, event.delivery
        if link.is_sender:
            if delivery.updated and delivery.remote_state is not None:
                delivery.settle()
            return
        if not delivery.readable or delivery.partial:
            return
        raw = link.recv(delivery.pending)
        link.advance()
        if link.credit < CREDIT // 2:
            link.flow(CREDIT - link.credit)
        if link.target.address == "$cbs":
            self.put_token(event.connection, decoded(raw))
            self.settle(delivery)
        else:
            self.take(link, unpacked(raw), delivery)

    def put_token(self, connection, request):
        properties = request.properties or {}
        name = properties.get("name")
        self.tell("put-token", name=name, type=properties.get("type"),
                  expiration=properties.get("expiration"), token_bytes=len(str(request.body)))
        if self.args.bad_token:
            status, description = 401, "InvalidSignature: The token has an invalid signature."
        else:
            status, description = 202, "Accepted"
            self.authorized[hash(connection)].add(name)
        link = self.replies[(hash(connection), request.reply_to)]
        link.send(Message(correlation_id=request.id, address=request.reply_to, properties={
            "status-code": int32(status), "status-description": description}))

    def take(self, link, messages, delivery):
        entity = link.target.address
        last = entity.split("/")[-1]
        fault = last if last in ("full", "released", "busy", "silent", *CLOSING) else None
        if fault in self.gone_wrong:
            fault = None
        elif fault != "full":
            self.gone_wrong.add(fault)
        for message in messages:
            duplicate = message.id in self.seen[entity]
            stored = not fault and (self.args.no_dedup or not duplicate)
            self.tell("message", entity=entity, id=message.id, group=message.group_id,
                      subject=message.subject, correlation=message.correlation_id,
                      content_type=str(message.content_type or "") or None,
                      properties=message.properties or {}, annotations=message.annotations or {},
                      body=message.body, batch=len(messages), duplicate=duplicate, stored=stored)
            if stored:
                self.seen[entity].add(message.id)
                self.queues[entity].append(message)
        if fault:
            self.go_wrong(fault, link, delivery)
        elif self.args.settle_delay:
            self.container.schedule(self.args.settle_delay / 1000,
                                    Later(lambda: self.settle(delivery)))
        else:
            self.settle(delivery)
        for consumer in self.consumers[entity]:
            self.serve(consumer)

    def go_wrong(self, fault, link, delivery):
        if fault in CLOSING:
            link.condition = Condition(*CLOSING[fault])
            link.close()
        elif fault == "released":
            self.settle(delivery, Delivery.RELEASED)
        elif fault in ("busy", "full"):
            delivery.local.condition = (
                Condition("com.microsoft:server-busy", "The request was terminated; try later.")
                if fault == "busy" else
                Condition("amqp:resource-limit-exceeded", "The maximum entity size was reached."))
            self.settle(delivery, Delivery.REJECTED)

    @staticmethod
    def settle(delivery, state=Delivery.ACCEPTED):
        delivery.update(state)
        delivery.settle()

    def on_sendable(self, event):
        self.serve(event.link)

    def serve(self, consumer):
        queue = self.queues.get(consumer.source.address)
        while queue and consumer.credit > 0:
            consumer.send(queue.popleft())

    def on_transport_closed(self, event):
        key = hash(event.connection)
        self.tell("end", why=str(event.transport.condition or ""))
        # Another connection may have the same hash in time.
        self.authorized.pop(key, None)
        self.replies = {name: link for name, link in self.replies.items() if name[0] != key}
        for links in self.consumers.values():
            links[:] = [link for link in links if hash(link.connection) != key]


def end_with_stdin():
    sys.stdin.buffer.read()
    os._exit(0)


def main():
    args = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if args.until_stdin_closes:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    Container(Broker(args)).run()


if __name__ == "__main__":
    main()
