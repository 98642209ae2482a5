use std::time::UNIX_EPOCH;

use tonic::{Code, Status};

use super::*;

const POLICY: Policy = Policy { probe_timeout: Duration::from_secs(2), circuit_failures: 3 };

const LONG: Duration = Duration::from_secs(2);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn new() -> Health {
    Health::new(POLICY, at(0))
}

fn identity(name: &str, incarnation: u64) -> Identity {
    Identity { name: name.into(), incarnation }
}

fn late() -> CallError {
    CallError::timeout("no answer")
}

fn told(code: Code, reason: &'static str) -> CallError {
    let mut status = Status::new(code, "x");
    status.metadata_mut().insert(rollcall_proto::REASON_METADATA, reason.parse().unwrap());
    status.into()
}

fn refused() -> CallError {
    Status::unavailable("connection refused").into()
}

/// A node that answered once.
fn well() -> Health {
    let mut health = new();
    health.probed(at(1));
    health
}

fn state(health: &Health) -> (NodeState, SystemTime, u64) {
    (health.state, health.since, health.changes)
}

#[test]
fn a_state_is_known_since_its_beginning_and_flaps_are_counted_and_survive() {
    let mut health = new();
    assert_eq!(state(&health), (NodeState::Unknown, at(0), 0));
    health.probed(at(1));
    health.probed(at(2));
    assert_eq!(state(&health), (NodeState::Connected, at(1), 0));
    health.failed(&refused(), Duration::ZERO, Caller::Request, at(3));
    health.failed(&refused(), Duration::ZERO, Caller::Probe, at(4));
    assert_eq!(state(&health), (NodeState::Unavailable, at(3), 1));
    assert_eq!((health.failures, health.last_seen), (2, Some(at(2))));
    health.answered(at(5));
    assert_eq!(state(&health), (NodeState::Connected, at(5), 2));
    assert_eq!((health.failures, health.last_seen), (0, Some(at(5))));
    let kept = health.last_error.unwrap();
    assert_eq!(kept.at, at(4));
    assert!(kept.text.contains("connection refused"), "{}", kept.text);
}

#[test]
fn a_caller_in_a_hurry_says_nothing_of_the_node_and_a_patient_one_counts() {
    let mut health = well();
    for _ in 0..100 {
        health.failed(&late(), LONG - Duration::from_millis(1), Caller::Request, at(2));
    }
    assert_eq!((health.failures, health.last_error.is_none(), health.is_in_doubt()), (0, true, false));
    health.failed(&late(), LONG, Caller::Request, at(3));
    assert_eq!((health.failures, health.is_in_doubt()), (1, true));
    assert_eq!(health.state, NodeState::Connected, "a heavy request may take long; a probe will tell");
    health.failed(&late(), LONG, Caller::Probe, at(4));
    assert_eq!(state(&health), (NodeState::Unavailable, at(4), 1));
}

#[test]
fn the_circuit_opens_with_a_probe_after_enough_calls_in_vain_and_closes_with_the_first_answer() {
    let mut health = well();
    for _ in 0..10 {
        health.failed(&late(), LONG, Caller::Request, at(2));
        assert!(health.barred().is_none(), "heavy requests alone never open it");
    }
    health.failed(&late(), LONG, Caller::Probe, at(3));
    let barred = health.barred().unwrap();
    assert_eq!(barred.reason, Reason::Timeout);
    assert!(barred.detail.contains("no answer"), "{}", barred.detail);
    assert!(!health.is_in_doubt(), "probes take their turn again");
    let no_connection = Duration::from_millis(150);
    health.failed(&refused(), no_connection, Caller::Probe, at(4));
    assert_eq!(health.barred().unwrap().reason, Reason::Unreachable, "the last reason");
    health.answered(at(5));
    assert!(health.barred().is_none());
    for _ in 0..2 {
        health.failed(&late(), LONG, Caller::Probe, at(6));
        assert!(health.barred().is_none(), "they are counted anew");
    }
    health.failed(&late(), LONG, Caller::Probe, at(7));
    assert!(health.barred().is_some());
}

#[test]
fn a_failure_at_once_is_no_reason_to_stop_asking() {
    let mut health = well();
    for failure in
        [refused(), told(Code::ResourceExhausted, "overloaded"), CallError::protocol("rows in disorder")]
    {
        for _ in 0..10 {
            health.failed(&failure, Duration::from_millis(5), Caller::Probe, at(2));
            assert!(health.barred().is_none(), "{failure}");
        }
        for _ in 0..3 {
            health.failed(&late(), LONG, Caller::Probe, at(3));
        }
        assert!(health.barred().is_some());
        health.failed(&failure, Duration::from_millis(5), Caller::Probe, at(4));
        assert!(health.barred().is_none(), "{failure}");
    }
}

#[test]
fn a_circuit_that_is_switched_off_never_opens() {
    let mut health = Health::new(Policy { circuit_failures: 0, ..POLICY }, at(0));
    for _ in 0..100 {
        health.failed(&late(), LONG, Caller::Probe, at(1));
        assert!(health.barred().is_none());
    }
}

#[test]
fn what_a_node_says_of_itself_is_its_state() {
    for (failure, expected) in [
        (told(Code::Unavailable, "draining"), NodeState::Draining),
        (told(Code::ResourceExhausted, "overloaded"), NodeState::Connected),
        (told(Code::Unavailable, "unreachable"), NodeState::Unavailable),
        (CallError::protocol("rows in disorder"), NodeState::Unavailable),
        (CallError::failed_precondition("the snapshot is gone"), NodeState::Connected),
        (CallError::other_node("it is another node now"), NodeState::Connected),
    ] {
        for mut health in [new(), well()] {
            health.failed(&failure, Duration::ZERO, Caller::Request, at(9));
            assert_eq!(health.state, expected, "{failure}");
            let spoke = failure.told || failure.well;
            assert_eq!(health.last_seen == Some(at(9)), spoke, "{failure}");
        }
    }
    let mut health = new();
    let draining = DescribeResponse { draining: true, ..DescribeResponse::default() };
    health.described(draining, at(1)).unwrap();
    health.probed(at(1));
    health.answered(at(2));
    assert_eq!(health.state, NodeState::Draining, "a call that goes on is no news");
}

#[test]
fn an_agent_that_is_too_new_is_not_asked_until_one_of_the_two_is_upgraded() {
    let mut health = well();
    let newer = |least| DescribeResponse { protocol: 7, min_protocol: least, ..DescribeResponse::default() };
    let error = health.described(newer(2), at(2)).unwrap_err();
    health.incompatible(&error, at(2));
    let barred = health.barred().unwrap();
    assert_eq!((health.state, barred.reason), (NodeState::Incompatible, Reason::Protocol));
    assert!(barred.detail.contains("upgrade the gateway"), "{}", barred.detail);
    health.answered(at(3));
    assert!(health.barred().is_some(), "what it answers may mean something else");
    health.failed(&refused(), Duration::ZERO, Caller::Probe, at(3));
    assert_eq!(health.state, NodeState::Unavailable);
    assert!(
        health.barred().is_some(),
        "nor is it asked when it comes back, before it has said what it speaks now"
    );
    health.described(newer(1), at(4)).unwrap();
    health.probed(at(4));
    assert_eq!((health.state, health.barred().is_none()), (NodeState::Connected, true));
}

#[test]
fn restarts_and_changes_of_hands_are_seen() {
    let mut health = new();
    assert_eq!(health.identified(&identity("a", 1), at(1)), News::Named);
    health.described(DescribeResponse { clients: 5, ..DescribeResponse::default() }, at(1)).unwrap();
    assert_eq!(health.identified(&identity("a", 1), at(2)), News::Nothing);
    assert_eq!(health.identified(&identity("a", 2), at(3)), News::Restarted);
    assert_eq!((health.restarts, health.description.is_some()), (1, true));
    assert_eq!(health.identified(&identity("b", 9), at(4)), News::Renamed { from: "a".into() });
    assert_eq!(health.previous, Some(Renamed { from: "a".into(), at: at(4) }));
    assert_eq!((health.name.as_deref(), health.restarts, health.description.is_none()), (Some("b"), 0, true));
}
