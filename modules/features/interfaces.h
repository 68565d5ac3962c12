/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What interfaces.c shares with client.c and, as far as it is no kernel's, with user.c. */
#define FEATURES_INCREMENT 0x5001
#define FEATURES_INCREMENT_INLINE 0x5002

#ifdef __KERNEL__
typedef int (*features_callback)(void *data, int round);

long features_sum(long a, long b, long c, long d, long e, long f, long g, long h);
int features_call_back(features_callback callback, void *data, int times);
extern int features_shared;
#endif
