//! The guest's allocator: a pointer that only moves up.
//!
//! An instance lives for one request and is then thrown away whole, so nothing need be freed. The heap begins behind the static data
//! and uses up the first page, which the host keeps resident; only a guest that needs more grows its memory. This is the
//! one hand-written file of the SDK with `unsafe`: an allocator cannot be written without it.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PAGE_BYTES: usize = 64 * 1024;

struct Bump {
    next: AtomicUsize,
    end: AtomicUsize,
}

#[global_allocator]
static BUMP: Bump = Bump { next: AtomicUsize::new(0), end: AtomicUsize::new(0) };

unsafe extern "C" {
    /// Set by the linker to the first byte behind the static data.
    static __heap_base: u8;
}

// SAFETY: wasm without threads has one caller at a time; regions are handed out once, in ascending order, inside the linear memory.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut next = self.next.load(Relaxed);
        if next == 0 {
            next = &raw const __heap_base as usize;
            self.end.store(core::arch::wasm32::memory_size(0) * PAGE_BYTES, Relaxed);
        }
        let start = (next + layout.align() - 1) & !(layout.align() - 1);
        let Some(stop) = start.checked_add(layout.size()) else { return core::ptr::null_mut() };
        let end = self.end.load(Relaxed);
        if stop > end {
            let pages = (stop - end).div_ceil(PAGE_BYTES);
            if core::arch::wasm32::memory_grow(0, pages) == usize::MAX {
                return core::ptr::null_mut();
            }
            self.end.store(end + pages * PAGE_BYTES, Relaxed);
        }
        self.next.store(stop, Relaxed);
        start as *mut u8
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // The newest allocation can be taken back; that is what a temporary is.
        if pointer as usize + layout.size() == self.next.load(Relaxed) {
            self.next.store(pointer as usize, Relaxed);
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let newest = pointer as usize + layout.size() == self.next.load(Relaxed);
        if newest && pointer as usize + size <= self.end.load(Relaxed) {
            self.next.store(pointer as usize + size, Relaxed);
            return pointer;
        }
        if size <= layout.size() {
            return pointer;
        }
        // SAFETY: the alignment is that of a layout that was valid, and `size` is the caller's to answer for.
        let fresh = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !fresh.is_null() {
            // SAFETY: the regions are disjoint, the old one `layout.size()` bytes long and the new one longer.
            unsafe { core::ptr::copy_nonoverlapping(pointer, fresh, layout.size()) };
        }
        fresh
    }
}
