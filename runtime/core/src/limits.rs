//! The bounds of the wire: what one request may carry. Bounds of stored state stand beside their owner.

/// Bytes of one event as it arrives.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a request body, after decompression.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that the events of one call may inherit from it in all: its `context`, once for every event.
pub const INHERITED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Events of one batch.
pub const BATCH_EVENTS_MAX: usize = 2_500;
/// Events that may come with one decide call.
pub const DECIDE_EVENTS_MAX: usize = 100;
/// Slots that one decide call may ask for.
pub const SLOTS_MAX: usize = 32;
/// Visitors for whom one batch call decides.
pub const BATCH_VISITORS_MAX: usize = 1_000;
/// Offers that one slot may be asked to hold.
pub const SLOT_COUNT_MAX: usize = 100;
/// Bytes of an identifier's value.
pub const IDENTIFIER_BYTES_MAX: usize = 256;
/// Identifiers of one profile; a link that would make more is refused.
pub const PROFILE_FRAGMENTS_MAX: usize = 64;
/// Identifiers that one event may name beside its own.
pub const EVENT_IDENTIFIERS_MAX: usize = 16;
/// Entities that one event may name.
pub const EVENT_ENTITIES_MAX: usize = 8;
/// Bytes of an event's name.
pub const EVENT_NAME_BYTES_MAX: usize = 256;
/// Characters of a `messageId`, as in Segment's API.
pub const MESSAGE_ID_CHARS_MAX: usize = 100;
/// Bytes of a key of a keyed aggregate (a product, a category); a longer one is refused with its event.
pub const KEY_BYTES_MAX: usize = 256;
/// Traits of one profile; an event that brings more is refused.
pub const TRAITS_MAX: usize = 512;
/// Bytes of one trait's value as JSON.
pub const TRAIT_BYTES_MAX: usize = 4 * 1024;
/// Bytes of all traits of one profile; an event that brings more is refused.
pub const TRAITS_BYTES_MAX: usize = 128 * 1024;
/// How far ahead of its receipt an event's time may lie; it is then set to the receipt.
pub const FUTURE_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// A client clock that is off by more than this is corrected by `sentAt`.
pub const CLOCK_SKEW_MS_MIN: i64 = 60 * 1000;
