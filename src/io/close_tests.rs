//! The close handshake while sockets are full: two connections, each of which may find no room for what it
//! sends at any moment, or may lose the other.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::faulty::*;
use crate::connection::tests::drive::{Seen, binary, next, ping, pong};
use crate::connection::tests::wire::*;
use crate::connection::{Config, Connection, Role};

/// What a program does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Send(usize),
    Ping,
    Close,
}

use Act::{Close, Ping, Send};

/// One of two connections with its socket, as the Perl part has it.
struct Side {
    connection: Connection,
    socket: Faulty,
    /// What the socket has not taken.
    queue: Queue,
    /// What was given to the connection, as the other side has to tell it; each with where its last byte is in
    /// the stream.
    said: Vec<(usize, Seen)>,
    len: usize,
    told: Vec<Seen>,
    /// How it ended, where it has.
    ended: Option<End>,
}

impl Side {
    fn new(role: Role) -> Side {
        // Keys come by way of what Miri does not know.
        let masked = role == Role::Client && !cfg!(miri);
        let role = if cfg!(miri) { None } else { Some(role) };
        let config = Config { role, masked, max_payload_size: 0, ..Config::default() };
        Side {
            connection: Connection::new(config),
            socket: Faulty { room: 0, ..Faulty::new() },
            queue: Queue::default(),
            said: vec![],
            len: 0,
            told: vec![],
            ended: None,
        }
    }

    fn say(&mut self, seen: Seen) {
        self.len += self.output_len();
        self.said.push((self.len, seen));
        self.flush();
    }

    fn output_len(&self) -> usize {
        self.connection.output().len()
    }

    fn act(&mut self, act: &Act) {
        let connection = &mut self.connection;
        let (done, seen) = match act {
            Send(len) => {
                let payload = vec![b'x'; *len];
                (connection.send(BINARY, &payload), binary(payload))
            }
            Ping => (connection.send(PING, b"?"), ping("?")),
            Close => (connection.close(1001, b"bye"), Seen::Close(Some(1001), "bye".into())),
        };
        if done.expect("nothing is wrong with it") {
            self.say(seen);
        }
    }

    /// Sends what there is to be sent.
    fn flush(&mut self) {
        let output = self.connection.take_output();
        if self.ended.is_none() {
            let failed = self.queue.send(&mut self.socket, &[], &output);
            self.ended = failed.map(End::Error);
        }
    }

    /// Reads once.
    fn read(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let end = read(&mut self.connection, &mut self.socket);
        loop {
            let (could, before) = (self.connection.is_writable(), self.output_len());
            assert_eq!(before, 0, "sent before the next event is asked for");
            let Some(event) = next(&mut self.connection) else { break };
            let answer = match &event {
                Seen::Ping(body) => Some(Seen::Pong(body.clone())),
                Seen::Close(code, _) => Some(Seen::Close(*code, String::new())),
                _ => None,
            };
            self.told.push(event);
            match answer {
                Some(answer) if could => self.say(answer),
                _ => assert_eq!(self.output_len(), 0, "an answer that must not be"),
            }
        }
        if end != End::Open {
            self.ended = Some(end);
        }
    }

    /// What it has told is what the other has said, as far as that has arrived.
    fn assert_told(&self, other: &Side, arrived: usize) {
        let all = other.said.iter().filter(|(end, _)| *end <= arrived);
        let expected: Vec<Seen> = all.map(|(_, seen)| seen.clone()).collect();
        assert_eq!(self.told, expected, "of {arrived} bytes");
    }

    fn has_said_close(&self) -> bool {
        self.said.iter().any(|(_, seen)| matches!(seen, Seen::Close(..)))
    }
}

/// Which of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Server,
}

use Who::{Client, Server};

#[derive(Clone, Debug)]
enum Step {
    Act(Who, Act),
    /// The socket takes so many bytes more, which arrive and are read.
    Open(Who, usize),
}

struct Pair {
    client: Side,
    server: Side,
}

impl Pair {
    fn new() -> Pair {
        Pair { client: Side::new(Role::Client), server: Side::new(Role::Server) }
    }

    fn sides(&mut self, who: Who) -> (&mut Side, &mut Side) {
        match who {
            Client => (&mut self.client, &mut self.server),
            Server => (&mut self.server, &mut self.client),
        }
    }

    /// Lets a socket take so many bytes more. Returns how many went to the other side.
    fn open(&mut self, who: Who, n: usize) -> usize {
        let (from, to) = self.sides(who);
        from.socket.room = from.socket.room.saturating_add(n);
        from.flush();
        let len = from.socket.outgoing.len();
        to.socket.incoming.extend(from.socket.outgoing.drain(..));
        to.read();
        len
    }

    /// The same, where there is no room for anything afterwards.
    fn open_once(&mut self, who: Who, n: usize) -> usize {
        let len = self.open(who, n);
        self.sides(who).0.socket.room = 0;
        len
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Act(who, act) => self.sides(*who).0.act(act),
            Step::Open(who, n) => {
                self.open(*who, *n);
            }
        }
    }

    /// Until nothing is on its way any more.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            let before = self.client.told.len() + self.server.told.len();
            self.open(Client, usize::MAX);
            self.open(Server, usize::MAX);
            let moved = self.client.told.len() + self.server.told.len() > before;
            let left = [&self.client, &self.server]
                .iter()
                .any(|side| !side.queue.0.is_empty() || !side.socket.incoming.is_empty());
            quiet = if moved || left { 0 } else { quiet + 1 };
        }
    }

    /// All that was said has been told, and a connection that one of them has closed is closed for both.
    fn assert_settled(&self) {
        let Pair { client, server } = self;
        server.assert_told(client, client.len);
        client.assert_told(server, server.len);
        let closed = client.has_said_close();
        assert_eq!(server.has_said_close(), closed);
        for side in [client, server] {
            let connection = &side.connection;
            let state =
                [connection.was_clean(), !connection.is_reading(), !connection.is_writable()];
            assert_eq!(state, [closed; 3]);
            let closes = |seen: &(usize, Seen)| matches!(seen.1, Seen::Close(..));
            let first = side.said.iter().position(closes);
            assert!(
                first.is_none_or(|first| first + 1 == side.said.len()),
                "Close is the last frame"
            );
        }
    }
}

/// What a side may do, in whatever order; what is behind a Close must come to nothing.
const SCRIPTS: [[Act; 2]; 6] = [
    [Send(2), Close],
    [Ping, Close],
    [Close, Send(2)],
    [Close, Ping],
    [Send(2), Ping],
    [Close, Close],
];

/// All ways to merge the lists, each in its order.
fn interleavings(lists: &[&[Step]], so_far: &mut Vec<Step>, visit: &mut impl FnMut(&[Step])) {
    let mut is_over = true;
    for i in 0..lists.len() {
        if let [first, rest @ ..] = lists[i] {
            is_over = false;
            let mut left = lists.to_vec();
            left[i] = rest;
            so_far.push(first.clone());
            interleavings(&left, so_far, visit);
            so_far.pop();
        }
    }
    if is_over {
        visit(so_far);
    }
}

fn acts(who: Who, script: &[Act]) -> Vec<Step> {
    script.iter().map(|act| Step::Act(who, act.clone())).collect()
}

/// What the two sides do, in all combinations; fewer where Miri, which takes its time, looks at them.
fn scripts() -> impl Iterator<Item = (usize, [&'static [Act; 2]; 2])> {
    let count = SCRIPTS.len();
    let all = (0..count * count).map(move |i| (i, [&SCRIPTS[i % count], &SCRIPTS[i / count]]));
    all.step_by(if cfg!(miri) { 13 } else { 1 })
}

#[test]
fn whenever_there_is_room_and_whoever_closes_everything_arrives() {
    let mut count = 0;
    // Cuts inside of a header, of a payload, and between two frames.
    let opens = [[1, 5], [4, 3], [9, 1]];
    for (i, [client, server]) in scripts() {
        let open = |who, at: usize| opens[at % 3].map(|n| Step::Open(who, n));
        let lists = [
            &acts(Client, client)[..],
            &acts(Server, server)[..],
            &open(Client, i)[..],
            &open(Server, i / 3 + i)[..],
        ];
        interleavings(&lists, &mut vec![], &mut |steps| {
            count += 1;
            if !cfg!(miri) || count % 200 == 0 {
                let mut pair = Pair::new();
                steps.iter().for_each(|step| pair.step(step));
                pair.settle();
                pair.assert_settled();
            }
        });
    }
    // 8! / 2!^4 orders of each pair of scripts.
    assert_eq!(count, 2520 * scripts().count());
}

/// Cuts the stream of each side at each byte, the acts of the other in between, with an end or an error there.
#[test]
fn at_every_byte_of_the_handshake_the_other_may_go_on_or_be_gone() {
    let ends = [End::Open, End::Eof, End::Error(libc::ECONNRESET), End::Error(libc::ETIMEDOUT)];
    let step = if cfg!(miri) { 9 } else { 1 };
    for (_, [client, server]) in scripts() {
        let cuts = (0..40).step_by(step).flat_map(|a| (0..24).step_by(step).map(move |b| (a, b)));
        for ((first, second), end) in cuts.flat_map(|cut| ends.map(|end| (cut, end))) {
            let mut pair = Pair::new();
            client.iter().for_each(|act| pair.client.act(act));
            let first = pair.open_once(Client, first);
            server.iter().for_each(|act| pair.server.act(act));
            let second = pair.open_once(Server, second);
            if end == End::Open {
                pair.settle();
                pair.assert_settled();
                continue;
            }
            // Nothing of what is unsent arrives, in either direction.
            for side in [&mut pair.client, &mut pair.server] {
                side.socket.end = end;
                side.read();
            }
            assert_ended(&mut pair, end, [first, second]);
        }
    }
}

/// Both have ended in this way, after all of so many bytes from client and server was told.
fn assert_ended(pair: &mut Pair, end: End, arrived: [usize; 2]) {
    let Pair { client, server } = pair;
    server.assert_told(client, arrived[0]);
    client.assert_told(server, arrived[1]);
    for side in [client, server] {
        assert_eq!(side.ended, Some(end));
        let told = side.told.len();
        let heard = matches!(side.told.last(), Some(Seen::Close(..)));
        assert_eq!(side.connection.was_clean(), heard);
        assert!(!heard || side.has_said_close());
        side.connection.finish();
        side.act(&Send(1));
        side.act(&Close);
        assert_eq!(next(&mut side.connection), None);
        assert_eq!(side.told.len(), told);
        assert!(side.socket.outgoing.is_empty(), "nothing leaves any more");
    }
}

fn who() -> impl Strategy<Value = Who> {
    select(vec![Client, Server])
}

/// Rarely a Close, or there would be nothing but the end.
fn step() -> impl Strategy<Value = Step> {
    let large = if cfg!(miri) { 300usize..400 } else { 10_000..100_000 };
    let act = prop_oneof![
        8 => prop_oneof![Just(0usize), 1usize..200, large].prop_map(Send),
        3 => Just(Ping),
        1 => Just(Close),
    ];
    let open = prop_oneof![0usize..10, 0usize..300, 1000usize..200_000];
    prop_oneof![
        1 => (who(), act).prop_map(|(who, act)| Step::Act(who, act)),
        2 => (who(), open).prop_map(|(who, n)| Step::Open(who, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 600 }))]

    #[test]
    fn conversations_survive_faults_and_end_by_the_error_there_is(
        steps in vec(step(), 1..40),
        mut faults in vec(faults(), 4),
        broken in prop::option::of((any::<Index>(), select(vec![libc::EPIPE, libc::ECONNRESET]))),
    ) {
        let mut pair = Pair::new();
        for side in [&mut pair.client, &mut pair.server] {
            side.socket.reads = faults.pop().expect("there are four").into();
            side.socket.writes = faults.pop().expect("there are four").into();
        }
        let breaks_at = broken.map(|(at, errno)| (at.index(steps.len()), errno));
        for (i, step) in steps.iter().enumerate() {
            pair.step(step);
            if let Some((_, errno)) = breaks_at.filter(|(at, _)| *at == i) {
                // What the client has sent and the server has not read is lost, as a reset has it.
                let unsent = pair.client.queue.0.len() + pair.client.socket.outgoing.len();
                let lost = std::mem::take(&mut pair.server.socket.incoming).len();
                let arrived = pair.client.len - lost - unsent;
                for side in [&mut pair.client, &mut pair.server] {
                    side.socket.reads.clear();
                    side.socket.writes.clear();
                    side.socket.end = End::Error(errno);
                }
                pair.server.read();
                pair.client.socket.room = 0;
                pair.client.socket.refusal = errno;
                pair.client.act(&Send(300));
                pair.server.assert_told(&pair.client, arrived);
                prop_assert_eq!(pair.server.ended, Some(End::Error(errno)));
                if pair.client.connection.is_writable() {
                    prop_assert_eq!(pair.client.ended, Some(End::Error(errno)));
                }
                return Ok(());
            }
        }
        pair.settle();
        pair.assert_settled();
        prop_assert_eq!(pair.client.ended, None);
        prop_assert_eq!(pair.server.ended, None);
    }
}

/// A Ping that comes between our Close and the peer's is not answered (RFC 6455 section 5.5.1), however little
/// of the Close has left.
#[test]
fn nothing_is_answered_behind_a_close_that_waits() {
    // Not its last byte, masked or not.
    for room in 0..7 {
        let mut pair = Pair::new();
        pair.client.act(&Close);
        pair.open(Client, room);
        pair.server.act(&Ping);
        pair.open(Server, usize::MAX);
        assert_eq!(pair.client.told, [ping("?")]);
        pair.settle();
        pair.assert_settled();
        assert!(!pair.server.told.contains(&pong("?")));
    }
}
