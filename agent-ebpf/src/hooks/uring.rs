//! `tp_btf/io_uring_complete`: requests of io_uring, which pass no system call of their own.
//!
//! Kernel prototype: `void io_uring_complete(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe)` (6.13 and later;
//! before, the result came by value and the hook is not attached). Sends are counted by `sock_send_length`, in the context
//! of whoever executes them (the submitter, a worker or the SQPOLL thread: all of the submitter's thread group). Misses:
//! completions that run in another process's context, and splice sources.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use super::word;
use crate::{
    flow::{open::on_open, put::on_put, take::on_take},
    kernel::{Task, UringRequest, uring_result},
};

// enum io_uring_op.
const READV: u8 = 1;
const WRITEV: u8 = 2;
const READ_FIXED: u8 = 4;
const WRITE_FIXED: u8 = 5;
const RECVMSG: u8 = 10;
const OPENAT: u8 = 18;
const READ: u8 = 22;
const WRITE: u8 = 23;
const RECV: u8 = 27;
const OPENAT2: u8 = 28;
const SPLICE: u8 = 30;
const TEE: u8 = 33;
const READ_MULTISHOT: u8 = 49;
const READV_FIXED: u8 = 60;
const WRITEV_FIXED: u8 = 61;

#[btf_tracepoint(function = "io_uring_complete")]
pub(crate) fn io_uring_complete(ctx: BtfTracePointContext) -> i32 {
    completed(UringRequest(word(&ctx, 1)), word(&ctx, 2));
    0
}

#[inline(always)]
fn completed(request: UringRequest, cqe: u64) -> Option<()> {
    let result = uring_result(cqe)?;
    if result < 0 {
        return None;
    }
    let task = Task::current();
    match request.opcode()? {
        OPENAT | OPENAT2 => on_open(task, task.tgid()?, result as u32, task.file(result as u32)?),
        READ | READV | READ_FIXED | READV_FIXED | READ_MULTISHOT | RECV | RECVMSG => {
            on_take(task, request.file()?, result as u64);
        }
        WRITE | WRITEV | WRITE_FIXED | WRITEV_FIXED | SPLICE | TEE => {
            on_put(task, request.file()?, result as u64)
        }
        _ => {}
    }
    Some(())
}
