/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bugs in KVM, e.g. sleeping when the mmu_notifier must not sleep, may be visible
 * only in the kernel log, and only if the relevant debug options are enabled.
 */
#ifndef SELFTEST_KVM_KERNEL_COMPLAINTS_H
#define SELFTEST_KVM_KERNEL_COMPLAINTS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kselftest.h"

/*
 * Open the kernel log at its end, i.e. skip the messages of earlier tests.
 * Prints a message, and returns -1, if the log can't be read.
 */
static inline int open_kmsg(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	else
		ksft_print_msg("Can't read /dev/kmsg (%s), can't find complaints\n",
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
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EPIPE) {
			ksft_print_msg("Some of the kernel's messages were lost\n");
			continue;
		}
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

static inline bool is_kernel_complaint(const char *msg)
{
	/* An overloaded host has lockups, too, they say nothing about KVM. */
	if (strstr(msg, "BUG: soft lockup") || strstr(msg, "BUG: workqueue lockup"))
		return false;

	return strstr(msg, "BUG:") || strstr(msg, "WARNING:");
}

/* Print the complaints since the last call, and return their number. */
static inline int count_kernel_complaints(int kmsg_fd)
{
	char buf[8192], *msg;
	int nr_complaints = 0;

	while ((msg = read_kernel_message(kmsg_fd, buf, sizeof(buf)))) {
		if (!is_kernel_complaint(msg))
			continue;

		ksft_print_msg("kernel: %s\n", msg);
		nr_complaints++;
	}

	return nr_complaints;
}

/* Does a message since the last call contain @text?  True if there's no log. */
static inline bool kernel_said(int kmsg_fd, const char *text)
{
	char buf[8192], *msg;

	while ((msg = read_kernel_message(kmsg_fd, buf, sizeof(buf)))) {
		if (strstr(msg, text))
			return true;
	}

	return kmsg_fd < 0;
}

#endif /* SELFTEST_KVM_KERNEL_COMPLAINTS_H */
