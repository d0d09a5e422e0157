use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::sync::Origin;
use crate::sync::manifest::Chunk;

fn shard() -> impl Strategy<Value = ShardId> {
    (0..bounds::SHARDS_MAX as u16).prop_map(ShardId)
}

fn bytes() -> impl Strategy<Value = Arc<[u8]>> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Into::into)
}

fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64).prop_map(|(number, shift)| number >> shift)
}

fn entry() -> impl Strategy<Value = Entry> {
    let origin = prop_oneof![Just(Origin::CENTRE), (1_u64..5).prop_map(|origin| Origin(origin << 59))];
    (number(), origin, number(), bytes()).prop_map(|(seq, origin, number, bytes)| Entry { seq, origin, number, bytes })
}

fn consecutive() -> impl Strategy<Value = Vec<Entry>> {
    (0_u64..1_000_000, prop::collection::vec(entry(), 0..40)).prop_map(|(first, mut entries)| {
        for (seq, entry) in (first..).zip(&mut entries) {
            entry.seq = seq;
        }
        entries
    })
}

fn head() -> impl Strategy<Value = (ShardId, Head)> {
    (shard(), any::<u32>(), number(), number(), number(), any::<u64>())
        .prop_map(|(shard, epoch, seq, first, stable, checksum)| (shard, Head { epoch, seq, first, stable, checksum }))
}

fn push() -> impl Strategy<Value = Push> {
    (shard(), any::<u32>(), any::<u64>(), number(), any::<bool>(), prop::collection::vec(bytes(), 0..10)).prop_map(
        |(shard, epoch, origin, predecessor, skips, changes)| Push {
            shard,
            epoch,
            origin: Origin(origin),
            predecessor,
            skips,
            changes,
        },
    )
}

fn answer() -> impl Strategy<Value = Pushed> {
    prop_oneof![
        prop::collection::vec(number(), 0..30).prop_map(|seqs| Pushed::Taken { seqs }),
        (number(), number()).prop_map(|(watermark, head)| Pushed::Behind { watermark, head }),
        any::<u32>().prop_map(|epoch| Pushed::Epoch { epoch }),
        (0..bounds::PUSH_CHANGES_MAX, ".{0,40}").prop_map(|(index, reason)| Pushed::Refused { index, reason }),
    ]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let chunk = (0..bounds::CHUNK_BYTES_MAX as u32, any::<u128>()).prop_map(|(bytes, hash)| Chunk { bytes, hash });
    let head = prop::collection::vec(any::<u8>(), 0..100);
    (head_parts(), head, prop::collection::vec(chunk, 0..20)).prop_map(
        |((shard, epoch, seq, checksum, reads), head, chunks)| Manifest {
            shard,
            epoch,
            seq,
            checksum,
            reads,
            head,
            chunks,
        },
    )
}

fn head_parts() -> impl Strategy<Value = (ShardId, u32, u64, u64, u16)> {
    (shard(), any::<u32>(), number(), any::<u64>(), any::<u16>())
}

fn frame() -> impl Strategy<Value = Frame> {
    let cursor = (any::<u32>(), number()).prop_map(|(epoch, seq)| Cursor { epoch, seq });
    let why = prop_oneof![Just(Refetch::Epoch), Just(Refetch::Trimmed), Just(Refetch::Ahead)];
    let entries = prop_oneof![prop::collection::vec(entry(), 0..20), consecutive()];
    prop_oneof![
        (shard(), any::<u32>(), entries).prop_map(|(shard, epoch, entries)| Frame::Changes { shard, epoch, entries }),
        prop::collection::vec(head(), 0..65).prop_map(Frame::Heads),
        (shard(), any::<u32>(), why).prop_map(|(shard, epoch, why)| Frame::Refetch { shard, epoch, why }),
        prop::collection::vec(push(), 0..5).prop_map(Frame::Pushes),
        prop::collection::vec(answer(), 0..10).prop_map(Frame::PushAnswers),
        prop::collection::vec((shard(), cursor), 0..65).prop_map(Frame::Follow),
        manifest().prop_map(Frame::Manifest),
    ]
}

proptest! {
    #[test]
    fn every_frame_survives_in_whatever_pieces_it_arrives(
        frames in prop::collection::vec(frame(), 1..4),
        piece in 1_usize..200,
    ) {
        let mut stream = Vec::new();
        for frame in &frames {
            let decoded = Frame::decode(&frame.encode()?)?;
            prop_assert_eq!(&decoded, frame);
            frame.encode_into(&mut stream)?;
        }
        let mut reader = FrameReader::new();
        let mut arrived = Vec::new();
        for piece in stream.chunks(piece) {
            reader.push(piece);
            while let Some(frame) = reader.next_frame()? {
                arrived.push(frame);
            }
        }
        prop_assert_eq!(reader.finish(), Ok(()));
        prop_assert_eq!(arrived, frames);
    }
}

/// The seed is fixed, so a failure comes again by running the test again.
#[test]
fn ten_thousand_damaged_frames_are_errors_and_never_other_frames() {
    const DAMAGED: u32 = 20_000;
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let (mut refused, mut wanting, mut by_kind) = (0_u32, 0_u32, [0_u32; 16]);
    for round in 0..DAMAGED {
        let one = frame().new_tree(&mut runner).expect("a frame").current();
        let other = frame().new_tree(&mut runner).expect("a frame").current();
        let bytes = one.encode().expect("encoded");
        let other = other.encode().expect("encoded");
        let mut damaged = bytes.clone();
        let mut draw = |below: usize| (0..below.max(1)).new_tree(&mut runner).expect("a number").current();
        match round % 6 {
            0 => {
                for _ in 0..=draw(4) {
                    let at = draw(damaged.len());
                    damaged[at] ^= 1 << draw(8);
                }
            }
            1 => damaged.truncate(draw(bytes.len())),
            2 => {
                let (at, from) = (draw(bytes.len()), draw(other.len()));
                damaged.truncate(at);
                damaged.extend_from_slice(&other[from..]);
            }
            3 => {
                let lie = u32::try_from(draw(1 << 25)).expect("small");
                damaged[4..8].copy_from_slice(&lie.to_le_bytes());
            }
            4 => {
                let (at, length) = (draw(bytes.len()), draw(40));
                damaged.splice(at..at, std::iter::repeat_n(0xA5, length));
            }
            _ => {
                let (from, to) = (draw(bytes.len()), draw(bytes.len()));
                damaged.swap(from, to);
            }
        }
        if damaged == bytes {
            continue;
        }
        let whole = Frame::decode(&damaged);
        // A splice may leave a whole frame behind it, and may be one.
        let mut reader = FrameReader::new();
        reader.push(&damaged);
        let mut frames = Vec::new();
        let outcome = loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame.encode().expect("encoded")),
                Ok(None) => break reader.finish(),
                Err(error) => break Err(error),
            }
        };
        for frame in &frames {
            assert!(*frame == bytes || *frame == other, "round {round}: a frame that nobody sent");
        }
        assert!(whole.is_err() || damaged == other, "round {round}: {whole:?}");
        match outcome {
            Err(FrameError::Truncated) => wanting += 1,
            Err(error) => {
                refused += 1;
                by_kind[match error {
                    FrameError::Checksum => 0,
                    FrameError::NotAFrame(_) => 1,
                    FrameError::Version(_) => 2,
                    FrameError::TooLarge { .. } => 3,
                    FrameError::Malformed(_) => 4,
                    FrameError::UnknownKind(_) => 5,
                    FrameError::Truncated => 6,
                }] += 1;
                assert_eq!(reader.next_frame(), Err(error), "an error is final");
            }
            Ok(()) => assert!(frames.iter().map(Vec::len).sum::<usize>() == damaged.len()),
        }
    }
    assert!(refused > 8_000 && wanting > 3_000, "{refused} refused, {wanting} wanting");
    assert!(by_kind[0] > 5_000 && by_kind[1] > 0 && by_kind[2] > 0 && by_kind[3] > 0, "{by_kind:?}");
}

/// Bodies that a broken sender seals with a right checksum: an error or a frame, never a panic, and no memory for what is only announced.
#[test]
fn ten_thousand_malformed_bodies_never_panic() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[8; 32]));
    let mut malformed = 0_u32;
    for round in 0..10_000 {
        let mut bytes = frame().new_tree(&mut runner).expect("a frame").current().encode().expect("encoded");
        let mut draw = |below: usize| (0..below.max(1)).new_tree(&mut runner).expect("a number").current();
        if round % 2 == 0 {
            bytes.truncate(HEADER_BYTES + draw(bytes.len() - HEADER_BYTES));
        }
        for _ in 0..draw(4) {
            let body = bytes.len() - HEADER_BYTES;
            if body > 0 {
                let at = HEADER_BYTES + draw(body);
                bytes[at] = draw(256) as u8;
            }
        }
        let length = u32::try_from(bytes.len() - HEADER_BYTES).expect("short");
        bytes[2] = draw(9) as u8;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(&bytes[..8], &bytes[HEADER_BYTES..]);
        bytes[8..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        match Frame::decode(&bytes) {
            Ok(frame) => assert_eq!(Frame::decode(&frame.encode().expect("within bounds")), Ok(frame)),
            Err(FrameError::Malformed(_) | FrameError::UnknownKind(_)) => malformed += 1,
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(malformed > 5_000, "{malformed}");
}

#[test]
fn what_is_wrong_is_said_as_soon_as_it_can_be_seen() {
    let bytes = Frame::Follow(vec![(ShardId(1), Cursor { epoch: 1, seq: 2 })]).encode().expect("encoded");
    let first = |bytes: &[u8]| {
        let mut reader = FrameReader::new();
        reader.push(bytes);
        reader.next_frame()
    };
    assert_eq!(first(b"HTTP"), Err(FrameError::NotAFrame(b'H')));
    assert_eq!(first(&[MAGIC, 2]), Err(FrameError::Version(2)));
    assert_eq!(first(&[MAGIC, 0]), Err(FrameError::Malformed("version 0")));
    let mut large = bytes.clone();
    large[4..8].copy_from_slice(&(9 * 1024 * 1024_u32).to_le_bytes());
    assert!(matches!(first(&large[..HEADER_BYTES]), Err(FrameError::TooLarge { .. })));
    assert_eq!(first(&bytes[..bytes.len() - 1]), Ok(None));
    assert_eq!(Frame::decode(&bytes[..bytes.len() - 1]), Err(FrameError::Truncated));
    let twice = [bytes.clone(), bytes].concat();
    assert!(matches!(Frame::decode(&twice), Err(FrameError::TooLarge { .. })));
}

#[test]
fn more_than_a_frame_holds_is_not_sent() {
    let entry = |length: usize| Entry { seq: 1, origin: Origin(1), number: 1, bytes: vec![0; length].into() };
    let changes = |entries| Frame::Changes { shard: ShardId(0), epoch: 1, entries };
    let too_large = |frame: &Frame| {
        let mut out = vec![1, 2, 3];
        let refused = matches!(frame.encode_into(&mut out), Err(FrameError::TooLarge { .. }));
        refused && out == [1, 2, 3]
    };
    assert!(too_large(&changes(vec![entry(bounds::CHANGE_BYTES_MAX + 1)])));
    assert!(too_large(&changes(vec![entry(bounds::CHANGE_BYTES_MAX); 17])));
    assert!(too_large(&changes(vec![entry(0); bounds::ENTRIES_MAX + 1])));
    assert!(too_large(&Frame::Follow(vec![(ShardId(65), Cursor::default())])));
    assert!(too_large(&Frame::Heads(vec![(ShardId(0), Head::default()); bounds::SHARDS_MAX + 1])));
    let largest = changes(vec![entry(bounds::CHANGE_BYTES_MAX); 15]);
    assert_eq!(Frame::decode(&largest.encode().expect("encoded")), Ok(largest));
}

#[test]
fn entries_are_cut_into_frames() {
    let entry =
        |length: usize| Entry { seq: u64::MAX, origin: Origin(1), number: u64::MAX, bytes: vec![0; length].into() };
    assert_eq!(fitting(&[]), 0);
    assert_eq!(fitting(&vec![entry(300); 10]), 10);
    assert_eq!(fitting(&vec![entry(bounds::CHANGE_BYTES_MAX); 10]), 1);
    let many = vec![entry(300); 5_000];
    let frame = Frame::Changes { shard: ShardId(64), epoch: u32::MAX, entries: many[..fitting(&many)].to_vec() };
    let bytes = frame.encode().expect("encoded").len();
    assert!((900 * 1024..=bounds::FRAME_BYTES_TARGET + HEADER_BYTES + 64).contains(&bytes), "{bytes}");
    assert_eq!(fitting(&vec![entry(0); 20_000]), bounds::ENTRIES_MAX);
}
