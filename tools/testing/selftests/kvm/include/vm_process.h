/* SPDX-License-Identifier: GPL-2.0-only */
/* Run a VM in a process of its own, which the test can kill. */
#ifndef SELFTEST_KVM_VM_PROCESS_H
#define SELFTEST_KVM_VM_PROCESS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kvm_util.h"
#include "wait_for.h"

struct vm_process {
	/* Zero if there is no process to wait for. */
	pid_t pid;
	int pidfd;

	/* Opened by the first vm_process_has_mm(). */
	int mem_fd;
};

/*
 * Fork a process that doesn't outlive the test.  Returns true in the new process,
 * which must not return to the test's caller.
 */
static inline bool vm_process_fork(struct vm_process *p)
{
	pid_t parent = getpid();

	memset(p, 0, sizeof(*p));
	p->pid = fork();
	TEST_ASSERT(p->pid >= 0, "fork() failed: %s", strerror(errno));
	if (!p->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(KSFT_FAIL);
		return true;
	}

	p->pidfd = syscall(__NR_pidfd_open, p->pid, 0);
	TEST_ASSERT(p->pidfd >= 0, "pidfd_open() failed: %s", strerror(errno));
	return false;
}

static inline bool vm_process_has_exited(struct vm_process *p)
{
	siginfo_t info = {};

	return waitid(P_PID, p->pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid;
}

/* Wait until the process sets @ready, in memory that it shares with the test. */
static inline bool vm_process_wait_ready(struct vm_process *p, bool *ready)
{
	wait_for(READ_ONCE(*ready) || vm_process_has_exited(p));
	return __atomic_load_n(ready, __ATOMIC_ACQUIRE);
}

/* Get a copy of a file descriptor of the process. */
static inline int vm_process_get_fd(struct vm_process *p, int fd)
{
	int copy = syscall(__NR_pidfd_getfd, p->pidfd, fd, 0);

	TEST_ASSERT(copy >= 0, "pidfd_getfd() failed: %s", strerror(errno));
	return copy;
}

/*
 * Does the mm have users, i.e. is KVM's ->release() of the mmu_notifier yet to be
 * called?  The mm can outlive the process, as the kernel, or a monitoring tool, may
 * briefly hold a reference to it.  Reading /proc/<pid>/mem hits end-of-file once the
 * mm has no users.  Call it once before the kill: /proc/<pid>/mem must be opened while
 * the process exists.
 */
static inline bool vm_process_has_mm(struct vm_process *p)
{
	char path[64], c;

	if (!p->mem_fd) {
		snprintf(path, sizeof(path), "/proc/%d/mem", p->pid);
		p->mem_fd = open(path, O_RDONLY);
		TEST_ASSERT(p->mem_fd >= 0, "Failed to open %s: %s", path, strerror(errno));
	}

	/* @p is mapped at the same address in the process. */
	return pread(p->mem_fd, &c, 1, (off_t)p);
}

/* Wait, once, for the process to exit.  Returns its wait status, or -1. */
static inline int vm_process_wait(struct vm_process *p)
{
	pid_t pid = p->pid;
	int status;

	p->pid = 0;
	return wait_for(waitpid(pid, &status, WNOHANG) == pid) ? status : -1;
}

/* Kill the process, unless it was waited for, and close the file descriptors. */
static inline void vm_process_put(struct vm_process *p)
{
	if (p->pid > 0) {
		kill(p->pid, SIGKILL);
		vm_process_wait(p);
	}

	if (p->pidfd)
		kvm_close(p->pidfd);
	if (p->mem_fd)
		kvm_close(p->mem_fd);
	memset(p, 0, sizeof(*p));
}

static inline int mrelease(int pidfd)
{
	return syscall(__NR_process_mrelease, pidfd, 0);
}

static inline bool has_mrelease(void)
{
	/* Is the only thing that's wrong the file descriptor? */
	return mrelease(-1) && errno == EBADF;
}

#endif /* SELFTEST_KVM_VM_PROCESS_H */
