//! io_uring: requests that pass no system call of their own.
//!
//! | hook | kernel prototype | since |
//! |---|---|---|
//! | `io_uring_submit_req` | `(struct io_kiocb *req)` | 6.3 |
//! | `io_uring_submit_sqe` | `(struct io_kiocb *req, bool force_nonblock)` | 6.0 to 6.2 |
//! | `io_uring_file_get` | `(struct io_kiocb *req, int fd)` | 6.0 |
//! | `io_uring_complete` | `(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe)` | 6.13 |
//! | `io_uring_complete_by_value` | `io_uring_complete` as `(void *ctx, void *req, u64 user_data, int res, unsigned cflags, u64 extra1, u64 extra2)` | 5.19 to 6.12 |
//! | `io_uring_cqe_overflow` | `(void *ctx, unsigned long long user_data, s32 res, u32 cflags, void *ocqe)` | 5.19 |
//!
//! (`include/trace/events/io_uring.h`.) Sends and receives are counted by `sock_send_length` and `sock_recv_length`, in the
//! context of whoever executes them. Misses: a file that a request opens into a slot, and reads or writes of that slot in the
//! same chain, when none of them leaves an event.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use super::word;
use crate::{
    flow::uring,
    kernel::{UringRequest, UringRing},
};

#[btf_tracepoint(function = "io_uring_submit_req")]
pub(crate) fn io_uring_submit_req(ctx: BtfTracePointContext) -> i32 {
    uring::submitted(UringRequest(word(&ctx, 0)));
    0
}

#[btf_tracepoint(function = "io_uring_submit_sqe")]
pub(crate) fn io_uring_submit_sqe(ctx: BtfTracePointContext) -> i32 {
    uring::submitted(UringRequest(word(&ctx, 0)));
    0
}

#[btf_tracepoint(function = "io_uring_file_get")]
pub(crate) fn io_uring_file_get(ctx: BtfTracePointContext) -> i32 {
    uring::named(UringRequest(word(&ctx, 0)), word(&ctx, 1) as u32);
    0
}

/// The result is read from the request: the event lies in memory that user space can write.
#[btf_tracepoint(function = "io_uring_complete")]
pub(crate) fn io_uring_complete(ctx: BtfTracePointContext) -> i32 {
    let request = UringRequest(word(&ctx, 1));
    if let Some(result) = request.result() {
        uring::completed(request, result);
    }
    0
}

#[btf_tracepoint(function = "io_uring_complete")]
pub(crate) fn io_uring_complete_by_value(ctx: BtfTracePointContext) -> i32 {
    uring::completed(UringRequest(word(&ctx, 1)), word(&ctx, 3) as i32);
    0
}

#[btf_tracepoint(function = "io_uring_cqe_overflow")]
pub(crate) fn io_uring_cqe_overflow(ctx: BtfTracePointContext) -> i32 {
    uring::overflowed(UringRing(word(&ctx, 0)), word(&ctx, 1), word(&ctx, 2) as i32, word(&ctx, 3) as u32);
    0
}
