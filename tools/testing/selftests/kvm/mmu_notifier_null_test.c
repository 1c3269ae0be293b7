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

static void run_vm(char *null)
{
	struct kvm_vm *vm = vm_create_barebones();
	u64 nr_pages = vm_calc_num_guest_pages(vm->mode, getpagesize());
	int fd;

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
}

int main(void)
{
	struct vm_process p;
	char *null;
	int status;

	/* The VM's process can't skip the test, e.g. if there's no KVM. */
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_USER_MEMORY2));

	null = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (null == MAP_FAILED)
		ksft_exit_skip("Address 0 needs CAP_SYS_RAWIO or vm.mmap_min_addr = 0: %s\n",
			       strerror(errno));

	if (vm_process_fork(&p)) {
		run_vm(null);
		_exit(KSFT_PASS);
	}

	status = vm_process_wait(&p);
	TEST_ASSERT(status != -1, "The memslot update hangs, and can't be killed");
	TEST_ASSERT(!status, "The memslot update failed, status 0x%x", status);
	return 0;
}
