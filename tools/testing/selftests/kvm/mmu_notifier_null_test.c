// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that an invalidation of memory at address 0 comes to its end.
 *
 * KVM counts invalidations from the mmu_notifier's start() to its end(), and a
 * memslot can't be added, changed or removed in between.  If mm forgets to call
 * end(), a memslot update waits forever, and can't be killed, so leave it to a
 * child process, and don't wait for that if it hangs.
 */
#include <signal.h>
#include <time.h>

#include <linux/sizes.h>

#include <sys/mman.h>
#include <sys/wait.h>

#include "test_util.h"
#include "kvm_util.h"

#define MEM_GPA			SZ_1M
#define MEM_SLOT		10

/* A memslot update takes some milliseconds, but hosts can be (very) slow. */
#define WAIT_TIMEOUT_SEC	60

static int run_child(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	char *null;

	null = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (null == MAP_FAILED) {
		ksft_print_msg("Can't map memory at address 0: %s\n", strerror(errno));
		ksft_print_msg("That needs CAP_SYS_RAWIO, or vm.mmap_min_addr = 0\n");
		return KSFT_SKIP;
	}

	/* Without page tables there is nothing to invalidate. */
	WRITE_ONCE(*null, 1);
	TEST_ASSERT(!mprotect(null, getpagesize(), PROT_READ),
		    "mprotect() failed: %s", strerror(errno));

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, MEM_GPA, MEM_SLOT, 1, 0);
	kvm_vm_free(vm);

	return KSFT_PASS;
}

int main(void)
{
	struct timespec start;
	int status;
	pid_t pid;

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed: %s", strerror(errno));
	if (!pid)
		_exit(run_child());

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (timespec_elapsed(start).tv_sec >= WAIT_TIMEOUT_SEC) {
			kill(pid, SIGKILL);
			TEST_FAIL("The memslot update hangs, process %d can't be killed",
				  pid);
		}
		usleep(1000);
	}

	TEST_ASSERT(WIFEXITED(status), "Child process died, status 0x%x", status);
	return WEXITSTATUS(status);
}
