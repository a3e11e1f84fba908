//! Compares the journals of the clients and the notifications of the applications with protocol.md.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use crate::journal::{Journal, SessionLog};
use crate::notices::{Event, Notice};

/// How long an older session may be served beside a newer one of its client, in microseconds.
const OVERLAP: u64 = 3_000_000;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong; empty if all is well.
    pub problems: Vec<String>,
    /// Messages that were acknowledged to their publishers.
    pub acked: usize,
    /// Publishes that were sent again because their answer did not come, or was a refusal.
    pub published_again: usize,
    /// First receipts, over all subscribers.
    pub received: usize,
    /// Receipts of messages that were there before.
    pub repeats: usize,
    /// Sessions that had their `connAck`.
    pub sessions: usize,
    /// Sessions of killed nodes that were told of twice.
    pub told_twice: usize,
    /// The longest time that an older session was served beside a newer one, in milliseconds.
    pub overlap_ms: u64,
}

impl Report {
    /// Fails the test that has problems.
    ///
    /// # Panics
    /// If there are any.
    pub fn expect_no_problems(&self) {
        assert!(self.problems.is_empty(), "{self}");
        eprintln!("{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problems, acked, published_again, received, repeats, sessions, told_twice, overlap_ms } =
            self;
        for problem in problems {
            writeln!(f, "WRONG: {problem}")?;
        }
        write!(
            f,
            "{acked} messages acknowledged ({published_again} published again), {received} received once and \
             {repeats} times again, {sessions} sessions, {told_twice} of killed nodes told of twice, at most \
             {overlap_ms} ms two of one client; {} problems",
            problems.len()
        )
    }
}

/// Checks everything. `is_of_killed` tells notices that a start of a node has written that was ended by
/// `kill -9`.
#[must_use]
pub fn check(journal: &Journal, notices: &[Notice], is_of_killed: impl Fn(&Notice) -> bool) -> Report {
    let mut report = Report { problems: journal.problems(), ..Report::default() };
    check_messages(journal, &mut report);
    check_wills(journal, notices, &mut report);
    check_sessions(journal, notices, is_of_killed, &mut report);
    report
}

/// The will of a client that disconnects in order is not published.
fn check_wills(journal: &Journal, notices: &[Notice], report: &mut Report) {
    let mut reasons: HashMap<(&str, SocketAddr), Vec<&str>> = HashMap::new();
    for notice in notices {
        if let (Event::Closed(reason), Some(remote)) = (&notice.event, notice.remote) {
            reasons.entry((&notice.client, remote)).or_default().push(reason);
        }
    }
    let (publishers, subscribers) = journal.clients();
    for publisher in 0..publishers {
        let log = journal.publisher(publisher).clone();
        for (n, local) in (0..).zip(log.wills.unwrap_or_default()) {
            let was_discarded = reasons.get(&(&*log.name, local)).is_some_and(|why| *why == ["Disconnected"]);
            let is_received = |number| journal.subscriber(number).ids.contains_key(&(publisher, n));
            if was_discarded && (0..subscribers).any(is_received) {
                let problem =
                    format!("the will of {} from {local} was published though it had disconnected", log.name);
                report.problems.push(problem);
            }
        }
    }
}

fn check_messages(journal: &Journal, report: &mut Report) {
    let (publishers, subscribers) = journal.clients();
    for publisher in 0..publishers {
        let log = journal.publisher(publisher);
        report.acked += log.acked;
        report.published_again +=
            log.messages.iter().map(|sent| sent.attempts.saturating_sub(1) as usize).sum::<usize>();
    }
    for subscriber in 0..subscribers {
        let missing = journal.missing(subscriber);
        if !missing.is_empty() {
            let some = &missing[..missing.len().min(10)];
            let problem = format!("s{subscriber} misses {} acknowledged messages: {some:?}", missing.len());
            report.problems.push(problem);
        }
        if !journal.subscriber(subscriber).is_group {
            check_order(journal, subscriber, report);
        }
        check_ids(journal, subscriber, report);
        let log = journal.subscriber(subscriber);
        report.received += log.firsts.len();
        report.repeats += log.repeats;
    }
}

/// First receipts of one publisher and channel are in publish order (protocol.md 2.10). A message that was
/// refused has been published after those that were not.
fn check_order(journal: &Journal, subscriber: u32, report: &mut Report) {
    let mut last: HashMap<(u32, u32), u32> = HashMap::new();
    let log = journal.subscriber(subscriber);
    let mut wrong = 0;
    for (publisher, n) in &log.firsts {
        if journal.publisher(*publisher).wills.is_some() {
            continue; // one that could not be stored at once follows later
        }
        let sent = journal.publisher(*publisher).messages[*n as usize];
        let last = last.entry((*publisher, sent.channel)).or_insert(*n);
        if *n < *last && sent.refusals == 0 {
            wrong += 1;
            if wrong <= 5 {
                let problem = format!("s{subscriber} received p{publisher}'s {n} after {last}: {sent:?}");
                report.problems.push(problem);
            }
        }
        *last = (*last).max(*n);
    }
}

/// A redelivery has the id of the delivery. A second id is that of a message that was stored twice, however often it was
/// published (protocol.md 2.23), except by an MQTT client with QoS 1.
fn check_ids(journal: &Journal, subscriber: u32, report: &mut Report) {
    let log = journal.subscriber(subscriber);
    let mut wrong = 0;
    for ((publisher, n), ids) in &log.ids {
        let sent = journal.publisher(*publisher).messages[*n as usize];
        // A message that is stored as often as it is published.
        let is_stored_again = !journal.publisher(*publisher).is_stored_once();
        if ids.len() > 1 && !(is_stored_again && ids.len() <= sent.attempts as usize) {
            wrong += 1;
            if wrong <= 5 {
                let (count, attempts) = (ids.len(), sent.attempts);
                report.problems.push(format!(
                    "s{subscriber} received p{publisher}'s {n} under {count} ids, published {attempts} times"
                ));
            }
        }
    }
}

#[derive(Default)]
struct OfConnection<'a> {
    sessions: Vec<&'a SessionLog>,
    closes: Vec<&'a Notice>,
    was_killed: bool,
}

fn check_sessions(
    journal: &Journal,
    notices: &[Notice],
    is_of_killed: impl Fn(&Notice) -> bool,
    report: &mut Report,
) {
    let sessions = journal.sessions().clone();
    let mut by_connection: HashMap<(&str, SocketAddr), OfConnection<'_>> = HashMap::new();
    for session in &sessions {
        by_connection.entry((&session.client, session.local)).or_default().sessions.push(session);
    }
    let clients: std::collections::HashSet<_> = sessions.iter().map(|session| &session.client).collect();
    for notice in notices.iter().filter(|notice| clients.contains(&notice.client)) {
        let Some(remote) = notice.remote else { continue };
        let Some(of) = by_connection.get_mut(&(&*notice.client, remote)) else {
            report.problems.push(format!("a notice of a connection that nobody had: {notice:?}"));
            continue;
        };
        of.was_killed |= is_of_killed(notice);
        if matches!(notice.event, Event::Closed(_)) {
            of.closes.push(notice);
        }
    }
    for ((client, local), of) in &by_connection {
        let opened = of.sessions.iter().filter(|session| session.opened.is_some()).count();
        report.sessions += opened;
        let closes = of.closes.len();
        if closes < opened {
            let sessions = &of.sessions;
            report.problems.push(format!("{client} from {local} had no close notice: {sessions:?}"));
        } else if closes > of.sessions.len() {
            if of.was_killed && closes <= 2 * of.sessions.len() {
                report.told_twice += 1;
            } else {
                let closes = &of.closes;
                report.problems.push(format!("{client} from {local} was told of too often: {closes:?}"));
            }
        }
    }
    check_successions(&sessions, &by_connection, report);
}

/// A session's close notifier has finished before the client's next session begins (protocol.md 2.2), and no
/// session is served for long beside a newer one (2.4).
fn check_successions(
    sessions: &[SessionLog],
    by_connection: &HashMap<(&str, SocketAddr), OfConnection<'_>>,
    report: &mut Report,
) {
    let mut by_client: HashMap<&str, Vec<(u64, &SessionLog)>> = HashMap::new();
    for session in sessions {
        if let Some(opened) = session.opened {
            by_client.entry(&session.client).or_default().push((opened, session));
        }
    }
    for (client, mut sessions) in by_client {
        sessions.sort_by_key(|(opened, _)| *opened);
        for pair in sessions.windows(2) {
            let [(_, older), (opened, _)] = pair else { continue };
            let Some(ended) = older.ended else {
                report.problems.push(format!("{client} from {} never ended", older.local));
                continue;
            };
            let overlap = ended.saturating_sub(*opened);
            report.overlap_ms = report.overlap_ms.max(overlap / 1000);
            if overlap > OVERLAP {
                let local = older.local;
                report
                    .problems
                    .push(format!("{client} from {local} was served for {overlap} µs beside a newer"));
            }
            let of = &by_connection[&(client, older.local)];
            let told = of.closes.iter().map(|notice| notice.at).min();
            // Two that overlap for the client may have come in the other order.
            if overlap == 0
                && of.sessions.len() == 1
                && let Some(told) = told
                && told > *opened
            {
                let (late, notice) = (told - opened, &of.closes);
                let problem =
                    format!("{client} was told of {late} µs after its next session began: {notice:?}");
                report.problems.push(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Sent;

    /// One publisher and one subscriber, and two messages of one channel that are acknowledged.
    fn journal() -> Journal {
        let journal = Journal::new(1, 1, 0);
        let acked = Sent { channel: 0, attempts: 1, refusals: 0, is_acked: true };
        journal.publisher(0).messages = vec![acked, acked];
        journal
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn session(journal: &Journal, port: u16, opened: u64, ended: u64) {
        let number = journal.conn_sent("s0", address(port));
        let mut sessions = journal.sessions();
        (sessions[number].opened, sessions[number].ended) = (Some(opened), Some(ended));
    }

    fn notice(at: u64, port: u16, event: Event) -> Notice {
        let (node, client, remote) = ("n0".to_owned(), "s0".to_owned(), Some(address(port)));
        Notice { at, node, start: 1, event, client, remote }
    }

    fn closed(at: u64, port: u16) -> Notice {
        notice(at, port, Event::Closed("Takeover".to_owned()))
    }

    fn problems(journal: &Journal, notices: &[Notice]) -> Vec<String> {
        check(journal, notices, |_| false).problems
    }

    /// There is one problem, and this is in it.
    fn expect_problem(problems: &[String], wanted: &str) {
        assert!(problems.len() == 1 && problems[0].contains(wanted), "{problems:?}");
    }

    #[test]
    fn messages_in_order_and_redeliveries_under_their_ids_are_accepted() {
        let journal = journal();
        journal.received(0, (0, 0), "a");
        journal.connected_again(0);
        journal.received(0, (0, 0), "a");
        journal.received(0, (0, 1), "b");
        assert_eq!(problems(&journal, &[]), [""; 0]);
        assert_eq!(check(&journal, &[], |_| false).repeats, 1);
    }

    #[test] // protocol.md 2.13
    fn an_acknowledged_message_that_is_missing_is_found() {
        let journal = journal();
        journal.received(0, (0, 0), "a");
        expect_problem(&problems(&journal, &[]), "misses 1 acknowledged messages: [(0, 1)]");
        journal.publisher(0).messages[1].is_acked = false;
        assert_eq!(problems(&journal, &[]), [""; 0]);
    }

    #[test] // protocol.md 2.10
    fn messages_out_of_order_are_found_unless_they_were_refused() {
        let journal = journal();
        journal.received(0, (0, 1), "b");
        journal.received(0, (0, 0), "a");
        expect_problem(&problems(&journal, &[]), "received p0's 0 after 1");
        journal.publisher(0).messages[0].refusals = 1;
        assert_eq!(problems(&journal, &[]), [""; 0]);
    }

    #[test] // protocol.md 2.13, 2.14, 2.23
    fn wrong_ids_are_found() {
        let two_ids = journal();
        two_ids.received(0, (0, 0), "a");
        two_ids.received(0, (0, 0), "c");
        two_ids.received(0, (0, 1), "b");
        expect_problem(&problems(&two_ids, &[]), "under 2 ids, published 1 times");
        two_ids.publisher(0).messages[0].attempts = 2;
        expect_problem(&problems(&two_ids, &[]), "under 2 ids, published 2 times");

        let one_id = journal();
        one_id.received(0, (0, 0), "a");
        one_id.connected_again(0);
        one_id.received(0, (0, 1), "a");
        expect_problem(&problems(&one_id, &[]), "two messages under one push id");

        let repeated = journal();
        repeated.received(0, (0, 0), "a");
        repeated.received(0, (0, 0), "a");
        repeated.received(0, (0, 1), "b");
        expect_problem(&problems(&repeated, &[]), "twice in one connection");
    }

    /// A JMQT publisher and MQTT publishers with QoS 2 and 1, and such subscribers; one acknowledged message each.
    fn of_both_languages() -> Journal {
        let journal = Journal::new(1, 1, 2);
        for publisher in 0..3 {
            let acked = Sent { channel: 0, attempts: 2, refusals: 0, is_acked: true };
            journal.publisher(publisher).messages = vec![acked];
        }
        journal
    }

    #[test]
    fn the_will_of_a_client_that_has_disconnected_must_not_be_received() {
        let journal = Journal::with_wills_and_groups(0, 0, 0, 1, 1);
        let sent = Sent { channel: 0, attempts: 1, refusals: 0, is_acked: false };
        journal.publisher(0).messages = vec![sent, sent];
        journal.publisher(0).wills = Some(vec![address(1), address(2)]);
        journal.received_by_mqtt(0, (0, 1));
        journal.received_by_mqtt(0, (0, 1)); // by another member
        let mut notices = Vec::new();
        for (port, reason) in [(1, "Disconnected"), (2, "ClosedByClient")] {
            let number = journal.conn_sent("p0", address(port));
            let at = u64::from(port) * 10;
            let mut sessions = journal.sessions();
            (sessions[number].opened, sessions[number].ended) = (Some(at), Some(at + 1));
            let event = Event::Closed(reason.to_owned());
            notices.push(Notice { client: "p0".to_owned(), ..notice(at + 2, port, event) });
        }
        assert_eq!(problems(&journal, &notices), [""; 0]);
        journal.received_by_mqtt(0, (0, 0));
        expect_problem(&problems(&journal, &notices), "127.0.0.1:1 was published");
    }

    #[test] // 4.3 of MQTT
    fn messages_of_mqtt_clients_are_counted_by_their_qos() {
        let all = |journal: &Journal| {
            for publisher in 0..3 {
                journal.received(0, (publisher, 0), &publisher.to_string());
                journal.received_by_mqtt(1, (publisher, 0));
                journal.received_by_mqtt(2, (publisher, 0));
            }
        };
        let twice = |subscriber, publisher| {
            let journal = of_both_languages();
            all(&journal);
            journal.connected_again(subscriber);
            journal.received_by_mqtt(subscriber, (publisher, 0));
            problems(&journal, &[])
        };
        // Subscriber 1 has QoS 2, as publisher 1.
        expect_problem(&twice(1, 1), "s1 received (1, 0) twice, with QoS 2");
        for (subscriber, publisher) in [(1, 0), (1, 2), (2, 0), (2, 1), (2, 2)] {
            assert_eq!(twice(subscriber, publisher), [""; 0], "redelivered");
        }
        let journal = of_both_languages();
        all(&journal);
        journal.received_by_mqtt(2, (2, 0));
        journal.received(0, (2, 0), "stored again");
        assert_eq!(problems(&journal, &[]), [""; 0], "a publish with QoS 1 may be repeated");
        journal.received_by_mqtt(2, (0, 0));
        expect_problem(&problems(&journal, &[]), "s2 received (0, 0) twice in one connection");

        let journal = of_both_languages();
        all(&journal);
        journal.received(0, (1, 0), "stored again");
        expect_problem(&problems(&journal, &[]), "received p1's 0 under 2 ids");
        let lost = of_both_languages();
        lost.received_by_mqtt(1, (0, 0));
        assert_eq!(problems(&lost, &[]).len(), 3, "s0 and s2 miss all, s1 misses two");
    }

    /// No messages: what is to be found is about sessions.
    fn quiet() -> Journal {
        Journal::new(1, 1, 0)
    }

    #[test] // protocol.md 2.16
    fn every_session_is_reported_once() {
        let journal = quiet();
        session(&journal, 1, 10, 20);
        assert_eq!(problems(&journal, &[closed(21, 1)]), [""; 0]);
        expect_problem(&problems(&journal, &[]), "had no close notice");
        let twice = [closed(21, 1), closed(22, 1)];
        expect_problem(&problems(&journal, &twice), "told of too often");
        let report = check(&journal, &twice, |_| true);
        assert_eq!((report.problems.len(), report.told_twice), (0, 1), "its node was killed");
        expect_problem(&problems(&journal, &[closed(21, 1), closed(22, 2)]), "a connection that nobody had");

        // A `conn` that was not answered may have been a session or not.
        journal.conn_sent("s0", address(3));
        assert_eq!(problems(&journal, &[closed(21, 1)]), [""; 0]);
        assert_eq!(problems(&journal, &[closed(21, 1), closed(23, 3)]), [""; 0]);
    }

    #[test] // protocol.md 2.2, 2.4
    fn a_session_begins_when_the_one_before_is_over() {
        let journal = quiet();
        session(&journal, 1, 10, 20);
        session(&journal, 2, 30, 40);
        assert_eq!(problems(&journal, &[closed(25, 1), closed(45, 2)]), [""; 0]);
        expect_problem(&problems(&journal, &[closed(35, 1), closed(45, 2)]), "5 µs after its next session");

        let overlapping = quiet();
        session(&overlapping, 1, 10, OVERLAP + 31);
        session(&overlapping, 2, 30, 40);
        expect_problem(&problems(&overlapping, &[closed(25, 1), closed(45, 2)]), "beside a newer");
    }
}
