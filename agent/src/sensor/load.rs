//! Loading and attaching.

use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel, programs::{BtfTracePoint, Iter}};
use anyhow::{Context as _, Result};

pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weighbridge-ebpf"));

pub fn probe() -> Result<()> {
    let raw = std::fs::read("/sys/kernel/btf/vmlinux")?;
    let t = std::time::Instant::now();
    let parsed = btf_rs::Btf::from_bytes(&raw)?;
    let offsets = super::offsets::resolve(&parsed)?;
    eprintln!("offsets {:?} {:?}", t.elapsed(), offsets);
    drop(parsed);
    let btf = Btf::from_sys_fs()?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf)).verifier_log_level(VerifierLogLevel::STATS);
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    let tgid = std::process::id();
    let floor = 65536u64;
    let one = 1u32;
    loader.override_global("AGENT_TGID", &tgid, true).override_global("PROPAGATION_FLOOR", &floor, true).override_global("SOCKETS_COUNTED", &one, true);
    let mut ebpf: Ebpf = loader.load(OBJECT).context("load")?;
    eprintln!("loaded {:?}", t.elapsed());
    for name in ["sched_process_fork", "sched_process_exec", "sched_process_exit", "sock_send_length", "io_uring_complete", "sys_exit"] {
        let program: &mut BtfTracePoint = ebpf.program_mut(name).context(name)?.try_into()?;
        match program.load(name, &btf) { Ok(()) => {
        program.attach()?;
        eprintln!("ok {name} {:?}", t.elapsed()); }
        Err(e) => eprintln!("{name}: {e:?}") }
    }
    for (name, kind) in [("scan_processes", "task"), ("scan_files", "task_file"), ("scan_mappings", "task_vma")] {
        let program: &mut Iter = ebpf.program_mut(name).context(name)?.try_into()?;
        match program.load(kind, &btf) { Ok(()) => eprintln!("ok {name} {:?}", t.elapsed()),
        Err(e) => eprintln!("{name}: {e:?}") }
    }
    std::thread::sleep(std::time::Duration::from_secs(std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)));
    Ok(())
}
