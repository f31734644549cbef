/* On which machine a process runs. */
#ifndef KVS_BASE_HOST_H
#define KVS_BASE_HOST_H

#include <stddef.h>

enum { HOST_BOOT = 40 };
void host_name(char *name, size_t size);
/* Id of the running kernel: machines may share a name, and namespaces of one machine share it. "" if unknown.
 */
void host_boot(char id[HOST_BOOT]);

#endif
