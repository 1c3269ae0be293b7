/* SPDX-License-Identifier: GPL-2.0 */
/* xioctl(): an ioctl() that must not fail. */
#include <err.h>
#include <stdint.h>
#include <sys/ioctl.h>

static int xioctl(int fd, unsigned long cmd, void *arg, const char *what)
{
	int ret = ioctl(fd, cmd, arg);

	if (ret < 0)
		err(1, "%s", what);
	return ret;
}
#define xioctl(fd, cmd, arg) xioctl(fd, cmd, (void *)(uintptr_t)(arg), #cmd)
