//! The compressed form of an event's payload in the log, and of packed blocks of a profile's history.
//!
//! zstd with a fixed dictionary of the words that e-commerce events are made of, so that a single small event compresses too. The
//! dictionary is part of the format: it may never change; another one would be another `Form`.

use std::cell::RefCell;

/// What one payload may expand to; more is a corrupt block.
const EXPANDED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Level 3 is the knee: level 1 gives a tenth larger blocks, level 6 takes three times as long for a twentieth.
const LEVEL: i32 = 3;
/// Payloads up to this size stay as they are: to compress one takes as long as to fold its event, and saves some fifty bytes, until its history is packed.
const PLAIN_BYTES_MAX: usize = 128;
const DICTIONARY: &[u8] = include_bytes!("payload.dict");

/// A block that does not expand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt payload")]
pub struct CorruptPayload;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The bytes as they are.
    Plain = 0,
    /// zstd with the dictionary, after the expanded length as four bytes.
    Zstd = 1,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Appends a payload to a buffer: a form byte, then the block.
pub fn compress_into(out: &mut Vec<u8>, payload: &[u8]) {
    if payload.len() <= PLAIN_BYTES_MAX {
        return copy_into(out, payload);
    }
    let packed = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::with_dictionary(LEVEL, DICTIONARY).ok();
        }
        slot.as_mut().and_then(|compressor| compressor.compress(payload).ok())
    });
    match packed.filter(|packed| packed.len() + 4 < payload.len()) {
        Some(packed) => {
            out.push(Form::Zstd as u8);
            out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            out.extend_from_slice(&packed);
        }
        None => copy_into(out, payload),
    }
}

/// Appends a payload to a buffer as it is, in a form that [`expand`] reads: for what is compressed as a part of something larger.
pub fn copy_into(out: &mut Vec<u8>, payload: &[u8]) {
    out.push(Form::Plain as u8);
    out.extend_from_slice(payload);
}

/// Expands a block that [`compress_into`] or [`copy_into`] wrote.
pub fn expand(block: &[u8]) -> Result<Vec<u8>, CorruptPayload> {
    let (form, rest) = block.split_first().ok_or(CorruptPayload)?;
    if *form == Form::Plain as u8 {
        return Ok(rest.to_vec());
    }
    if *form != Form::Zstd as u8 {
        return Err(CorruptPayload);
    }
    let (length, packed) = rest.split_first_chunk::<4>().ok_or(CorruptPayload)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > EXPANDED_BYTES_MAX {
        return Err(CorruptPayload);
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::with_dictionary(DICTIONARY).ok();
        }
        let expanded = slot.as_mut().and_then(|decompressor| decompressor.decompress(packed, length).ok());
        expanded.filter(|expanded| expanded.len() == length).ok_or(CorruptPayload)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(payload: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        compress_into(&mut block, payload);
        block
    }

    #[test]
    fn a_small_event_compresses_by_the_dictionary() {
        let event = br#"{"properties":{"order_id":"536365","total":139.12,"currency":"GBP","products":[{"product_id":"85123A","name":"T-LIGHT HOLDER","price":2.55,"quantity":6}]}}"#;
        let block = packed(event);
        assert_eq!(expand(&block).as_deref(), Ok(event.as_slice()));
        assert!(block.len() < event.len() / 2, "{} of {}", block.len(), event.len());
    }

    proptest! {
        #[test]
        fn a_payload_survives(payload in prop::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(expand(&packed(&payload)), Ok(payload));
        }

        #[test]
        fn a_corrupt_block_is_refused_or_harmless(block in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = expand(&block);
        }
    }
}
