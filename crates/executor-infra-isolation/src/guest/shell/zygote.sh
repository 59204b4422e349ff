# What a warm bash runs: the line at the end, which comes back in a guest with its job. Then bash reads on, and finds the
# guest's script where this one was (bash.rs in executor-guest). So nothing may follow that line. These comments are here
# for another reason as well: bash reads a script in pieces of the size that it found this one to be.
@PADDING@
enable -f /proc/self/fd/4 executor_guest && executor_guest && . /run/sandbox/environment.sh && { RANDOM=${SRANDOM:-$(od -An -N2 -tu2 /dev/urandom)}; SECONDS=0; enable -n executor_guest; } || exit
