// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that an invalidation of memory at address 0 ends.
 *
 * KVM counts invalidations from the mmu_notifier's start() to its end(), and a
 * memslot can't be added, changed or removed in between.  If mm doesn't call end(), a
 * memslot update waits forever, and can't be killed.  Do the update in another
 * process, and don't wait for the process if it hangs.
 */
#include <linux/sizes.h>

#include <sys/mman.h>

#include "test_util.h"
#include "kvm_util.h"

/* A memslot update takes some milliseconds, but hosts can be (very) slow. */
#define WAIT_TIMEOUT_SEC	60
#include "vm_process.h"

#define MEM_GPA			SZ_1M
#define MEM_SLOT		10

static int run_vm(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	u64 nr_pages = vm_calc_num_guest_pages(vm->mode, getpagesize());
	char *null;
	int fd;

	null = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (null == MAP_FAILED) {
		ksft_print_msg("Can't map memory at address 0: %s\n", strerror(errno));
		ksft_print_msg("That needs CAP_SYS_RAWIO, or vm.mmap_min_addr = 0\n");
		return KSFT_SKIP;
	}

	/* Only memory that is mapped is invalidated. */
	WRITE_ONCE(*null, 1);
	TEST_ASSERT(!mprotect(null, getpagesize(), PROT_READ),
		    "mprotect() failed: %s", strerror(errno));

	/* If this hangs, the runner must not wait for more output. */
	fd = open_path_or_exit("/dev/null", O_WRONLY);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, MEM_GPA, MEM_SLOT, nr_pages, 0);
	kvm_vm_free(vm);

	return KSFT_PASS;
}

int main(void)
{
	struct vm_process p;
	int status;

	if (vm_process_fork(&p))
		_exit(run_vm());

	status = vm_process_wait(&p);
	TEST_ASSERT(status != -1, "The memslot update hangs, and can't be killed");
	TEST_ASSERT(WIFEXITED(status), "The process died, status 0x%x", status);

	status = WEXITSTATUS(status);
	TEST_ASSERT(status == KSFT_PASS || status == KSFT_SKIP,
		    "The memslot update failed, exit status %d", status);
	return status;
}
