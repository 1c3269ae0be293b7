/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for tests that run a VM in a process of its own, to kill that process.
 * The test defines WAIT_TIMEOUT_SEC.
 */
#ifndef SELFTEST_KVM_VM_PROCESS_H
#define SELFTEST_KVM_VM_PROCESS_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kselftest.h"
#include "test_util.h"

/*
 * Poll for @cond, which isn't signalled in any other way.  Evaluates to whether
 * or not the condition became true in time.
 */
#define wait_for(cond)							\
({									\
	struct timespec start;						\
	bool ok;							\
									\
	clock_gettime(CLOCK_MONOTONIC, &start);				\
	while (!(ok = (cond)) &&					\
	       timespec_elapsed(start).tv_sec < WAIT_TIMEOUT_SEC)	\
		usleep(1000);						\
	ok;								\
})

/* Fork a process that doesn't outlive the test. */
static inline pid_t fork_vm_process(void)
{
	pid_t parent = getpid(), pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(KSFT_FAIL);
	}

	return pid;
}

static inline bool process_has_exited(pid_t pid)
{
	siginfo_t info = {};

	return waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid;
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
