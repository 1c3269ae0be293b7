/* SPDX-License-Identifier: GPL-2.0-only */
/* Wait for conditions that nobody signals. */
#ifndef SELFTEST_KVM_WAIT_FOR_H
#define SELFTEST_KVM_WAIT_FOR_H

#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include <linux/time64.h>

#include "test_util.h"

/* Long enough for slow hosts.  A test can define another timeout. */
#ifndef WAIT_TIMEOUT_SEC
#define WAIT_TIMEOUT_SEC	20
#endif

static inline s64 clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return timespec_to_ns(ts);
}

static inline s64 now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* Poll for @cond.  Evaluates to whether the condition became true in time. */
#define wait_for_ns(cond, timeout_ns)					\
({									\
	s64 deadline = now_ns() + (timeout_ns);				\
	bool ok;							\
									\
	while (!(ok = (cond)) && now_ns() < deadline)			\
		usleep(1000);						\
	ok;								\
})
#define wait_for(cond)		wait_for_ns(cond, WAIT_TIMEOUT_SEC * NSEC_PER_SEC)

#endif /* SELFTEST_KVM_WAIT_FOR_H */
