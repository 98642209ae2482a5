//! A count's stream of chunks.

use std::vec::IntoIter;

use futures::{Stream, stream};
use prost::Message as _;
use rollcall_proto::CHUNK_BYTES;
use rollcall_proto::v1::{CountResponse, Group, Identity};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::calls::{Deadline, exceeded};
use crate::index::Count;

struct Chunks {
    /// What the first chunk says; taken once it was sent.
    head: Option<(Identity, u64)>,
    groups: IntoIter<Group>,
    deadline: Deadline,
    /// The call counts until its last chunk is taken.
    _call: OwnedSemaphorePermit,
}

/// The chunks of a count; the first says whose clients these are and how many, even if no group is sent.
pub(super) fn chunks(
    identity: Identity,
    count: Count,
    deadline: Deadline,
    call: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<CountResponse, Status>> + Send {
    let Count { count, groups } = count;
    let head = Some((identity, count));
    let chunks = Chunks { head, groups: groups.into_iter(), deadline, _call: call };
    stream::try_unfold(chunks, async |mut chunks| {
        if chunks.deadline.has_passed() {
            return Err(exceeded());
        }
        Ok(chunks.next().map(|chunk| (chunk, chunks)))
    })
}

impl Chunks {
    fn next(&mut self) -> Option<CountResponse> {
        let mut bytes = 0;
        let mut groups = Vec::new();
        while bytes < CHUNK_BYTES
            && let Some(group) = self.groups.next()
        {
            bytes += group.encoded_len();
            groups.push(group);
        }
        match self.head.take() {
            Some((identity, count)) => Some(CountResponse { identity: Some(identity), count, groups }),
            None if groups.is_empty() => None,
            None => Some(CountResponse { identity: None, count: 0, groups }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;
    use crate::calls::Calls;

    fn group(text: String) -> Group {
        Group { value: Some(rollcall_proto::v1::group::Value::Text(text)), count: 1 }
    }

    #[tokio::test]
    async fn groups_come_in_chunks_and_the_first_is_there_in_any_case() {
        let calls = Calls::new(1);
        for (groups, lengths) in [(0, vec![0]), (10, vec![10]), (40, vec![17, 17, 6])] {
            let groups: Vec<Group> = (0..groups).map(|n| group(format!("{n:0>63000}"))).collect();
            let identity = Identity { name: "a@h".into(), incarnation: 7 };
            let count = Count { count: 40, groups: groups.clone() };
            let deadline = Deadline::of(&MetadataMap::new());
            let chunks = chunks(identity.clone(), count, deadline, calls.admit().unwrap());
            let chunks: Vec<CountResponse> = chunks.map(Result::unwrap).collect().await;
            assert_eq!(chunks.iter().map(|chunk| chunk.groups.len()).collect::<Vec<_>>(), lengths);
            assert_eq!((chunks[0].identity.as_ref(), chunks[0].count), (Some(&identity), 40));
            assert!(chunks[1..].iter().all(|chunk| chunk.identity.is_none() && chunk.count == 0));
            let sent: Vec<Group> = chunks.into_iter().flat_map(|chunk| chunk.groups).collect();
            assert_eq!(sent, groups);
            assert_eq!(calls.in_flight(), 0, "the call has ended with its stream");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", MetadataValue::from_static("1S"));
        let deadline = Deadline::of(&metadata);
        let call = Calls::new(1).admit().unwrap();
        let count = Count { count: 2, groups: vec![group("x".repeat(CHUNK_BYTES)), group("y".into())] };
        let mut chunks = Box::pin(chunks(Identity::default(), count, deadline, call));
        assert!(chunks.next().await.unwrap().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(chunks.next().await.unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
