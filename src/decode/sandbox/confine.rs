//! What the process gives up before it reads a frame. Any step refused, but the change of user, means no
//! start: a process half confined is worse than one that is missed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

use super::{Orders, Priority};

/// `nobody`, wherever there is one; owning nothing is all that is asked of it.
const NOBODY: u32 = 65_534;

/// A step of the confinement that the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfineStep {
    /// Closing inherited files.
    CloseFiles,
    /// Asking to be killed with the thread that started it.
    ParentDeath,
    /// Giving up new privileges and being traced.
    Privileges,
    /// Bounding memory, processor time and files.
    Limits,
    /// Filtering system calls.
    Seccomp,
}

impl std::fmt::Display for ConfineStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CloseFiles => "close_range",
            Self::ParentDeath => "pr_set_pdeathsig",
            Self::Privileges => "pr_set_no_new_privs",
            Self::Limits => "setrlimit",
            Self::Seccomp => "seccomp",
        })
    }
}

pub(super) fn confine(orders: &Orders, socket: &File) -> Result<(), ConfineStep> {
    close_other_files(socket)?;
    become_nobody();
    // After the change of user, which clears it.
    prctl(libc::PR_SET_PDEATHSIG, i64::from(libc::SIGKILL)).ok_or(ConfineStep::ParentDeath)?;
    // The parent may have died before it took effect.
    if u32::try_from(parent_pid()) != Ok(orders.parent_pid) {
        return Err(ConfineStep::ParentDeath);
    }
    prctl(libc::PR_SET_DUMPABLE, 0).ok_or(ConfineStep::Privileges)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).ok_or(ConfineStep::Privileges)?;
    yield_to_others(orders.priority);
    limit(libc::RLIMIT_AS, orders.memory_bytes_max)?;
    limit(libc::RLIMIT_CPU, orders.cpu_s_max)?;
    for resource in [libc::RLIMIT_CORE, libc::RLIMIT_FSIZE, libc::RLIMIT_NOFILE, libc::RLIMIT_NPROC] {
        limit(resource, 0)?;
    }
    let filter = filter().ok_or(ConfineStep::Seccomp)?;
    seccompiler::apply_filter(&filter).map_err(|_| ConfineStep::Seccomp)
}

/// The calls that memory, the socket and an orderly end take. Anything else kills the process.
fn filter() -> Option<BpfProgram> {
    let plain = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        plain.into_iter().map(|call| (call, Vec::new())).collect();
    // Memory that is mapped later can never be executed.
    let executable = u64::try_from(libc::PROT_EXEC).ok()?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_executable =
            SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(executable), 0).ok()?;
        rules.insert(call, vec![SeccompRule::new(vec![not_executable]).ok()?]);
    }
    let arch = std::env::consts::ARCH.try_into().ok()?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch).ok()?;
    filter.try_into().ok()
}

/// Closes every file but the socket and the three standard ones, two of which are null.
fn close_other_files(socket: &File) -> Result<(), ConfineStep> {
    let kept = u32::try_from(socket.as_raw_fd()).map_err(|_| ConfineStep::CloseFiles)?;
    for (first, last) in [(3, kept.saturating_sub(1)), (kept + 1, u32::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: the call takes three integers; the only descriptor this process uses is left out.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            return Err(ConfineStep::CloseFiles);
        }
    }
    Ok(())
}

/// Gives up root, where the gateway runs as root and may.
fn become_nobody() {
    // SAFETY: the calls take integers and a null list of length zero, and this process has one thread.
    unsafe {
        if libc::geteuid() == 0 {
            // A root without the capability to change user has none to give up.
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(NOBODY, NOBODY, NOBODY);
            libc::setresuid(NOBODY, NOBODY, NOBODY);
        }
    }
}

fn yield_to_others(priority: Priority) {
    let (policy, nice) = match priority {
        Priority::Idle => (libc::SCHED_IDLE, 19),
        Priority::Low => (libc::SCHED_BATCH, 10),
    };
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a value that outlives the call. That either may be refused is no harm to
    // safety, only to pace.
    unsafe {
        libc::sched_setscheduler(0, policy, &raw const parameters);
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}

fn parent_pid() -> libc::pid_t {
    // SAFETY: the call takes nothing and always succeeds.
    unsafe { libc::getppid() }
}

fn prctl(option: libc::c_int, value: i64) -> Option<()> {
    // SAFETY: the options used here take one integer; the other arguments must be zero and are.
    let result = unsafe { libc::prctl(option, value, 0_i64, 0_i64, 0_i64) };
    (result == 0).then_some(())
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> Result<(), ConfineStep> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the pointer is to a value that outlives the call.
    let result = unsafe { libc::setrlimit(resource, &raw const limit) };
    if result == 0 { Ok(()) } else { Err(ConfineStep::Limits) }
}
