/* Signals: a wish to stop, and notes about crashes. Signal handlers can only reach file-scope state, so this
 * is the one module that has some. */
#ifndef KVS_SWEEP_STOP_H
#define KVS_SWEEP_STOP_H

#include <stdint.h>

enum stop_wish { STOP_NO, STOP_SOON, STOP_NOW };

/* INT, TERM and (unless it is ignored, as by nohup) HUP: give up the bundle in flight; a second one of these
 * ends the process at once, with status 75. USR1 (what batch systems send ahead of time): finish it; TERM
 * after it, from a batch system or an mpirun that has lost a rank, is no second one. The journal is whole at
 * any moment. Before MPI starts. */
void stop_install(void);
enum stop_wish stop_wished(void);
const char *stop_signal_name(void); /* of the first signal, "" if there was none */

/* From here on SEGV, ABRT, BUS and FPE leave a note `dir`/`bundle`.ATTEMPT.PID about the armed bundle and
 * then take their usual course. After MPI has started (it installs handlers of its own). */
void crash_install(const char *dir, int attempt);
void crash_arm(uint64_t bundle);
void crash_disarm(void);
/* Leaves such a note by hand: a GPU whose kernel failed is as lost as a process. */
void crash_note(const char *text);
/* How many notes there are about a bundle. */
int crash_notes(const char *dir, uint64_t bundle);
/* What one of them says ("signal 11", or what the GPU reported), owned; "" if there is none. */
char *crash_why(const char *dir, uint64_t bundle);
/* Removes all notes and the folder. */
void crash_clear(const char *dir);

#endif
