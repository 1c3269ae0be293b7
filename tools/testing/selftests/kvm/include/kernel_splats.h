/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bugs in KVM, e.g. sleeping when the mmu_notifier must not sleep, may be visible
 * only in the kernel log, and only if the relevant debug options are enabled.
 */
#ifndef SELFTEST_KVM_KERNEL_SPLATS_H
#define SELFTEST_KVM_KERNEL_SPLATS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kselftest.h"

/*
 * Open the kernel log at its end, earlier messages are someone else's problem.
 * Returns -1, and says so, if the log can't be read.
 */
static inline int open_kmsg(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	else
		ksft_print_msg("Can't read /dev/kmsg (%s), not checking for kernel splats\n",
			       strerror(errno));
	return fd;
}

/* The kernel's next message, in @buf, or NULL if there is none. */
static inline char *read_kernel_message(int kmsg_fd, char *buf, size_t size)
{
	unsigned int prio;
	char *msg;
	ssize_t r;

	if (kmsg_fd < 0)
		return NULL;

	for (;;) {
		r = read(kmsg_fd, buf, size - 1);
		if (r < 0 && (errno == EPIPE || errno == EINTR))
			continue;
		if (r <= 0)
			return NULL;

		buf[r] = '\0';

		/* Ignore messages from userspace, i.e. a non-zero facility. */
		msg = strchr(buf, ';');
		if (!msg || sscanf(buf, "%u,", &prio) != 1 || prio >> 3)
			continue;

		/* Drop the dictionary that follows the message proper. */
		msg[strcspn(msg, "\n")] = '\0';
		return msg + 1;
	}
}

/* Print the complaints since the last call, and return how many there are. */
static inline int count_kernel_splats(int kmsg_fd)
{
	char buf[8192], *msg;
	int nr_splats = 0;

	while ((msg = read_kernel_message(kmsg_fd, buf, sizeof(buf)))) {
		if (!strstr(msg, "BUG:") && !strstr(msg, "WARNING:"))
			continue;

		ksft_print_msg("kernel: %s\n", msg);
		nr_splats++;
	}

	return nr_splats;
}

/* Does a message since the last call contain @text?  Trivially so without a log. */
static inline bool kernel_said(int kmsg_fd, const char *text)
{
	char buf[8192], *msg;

	while ((msg = read_kernel_message(kmsg_fd, buf, sizeof(buf)))) {
		if (strstr(msg, text))
			return true;
	}

	return kmsg_fd < 0;
}

#endif /* SELFTEST_KVM_KERNEL_SPLATS_H */
