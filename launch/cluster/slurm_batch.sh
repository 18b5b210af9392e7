#!/bin/bash
# Trains with one worker a node. Submit it with `sbatch FILE`; change in it what does not fit.
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=1
@DIRECTIVES@
# The workers, not this script, are told that many seconds before the time limit, and save. Slurm may be a minute early.
#SBATCH --signal=USR1@@NOTICE@
# A job whose node is lost goes back into the queue, and adds to its log when it runs again.
#SBATCH --requeue
#SBATCH --open-mode=append

# A shared folder, the same on all nodes. Tasks of an array are runs of their own: give `sbatch --array=0-4` this file,
# and use $SLURM_ARRAY_TASK_ID in the flags below for what tells them apart, such as the seed.
workdir=@WORKDIR@${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}

# scancel reaches this script too, the notice of the time limit does not.
cancelled= interrupted=yes
trap 'cancelled=yes interrupted=yes' TERM

# Each attempt is one srun: an agent on every node, which starts the trainer there. When one fails all are killed, and
# another srun on the same nodes goes on from the newest checkpoint, as long as the restarts last.
@MIRRORLINE@ launch --workers=@WORKERS@ \
  @LIMITS@ \
  --srun=@SRUN@ \
  -- @COMMAND@ --workdir="$workdir" &
supervisor=$!
while [ -n "$interrupted" ]; do  # A signal ends the wait, and not the supervisor.
  interrupted=
  wait "$supervisor"
  code=$?
done

# 75: all is saved. At the time limit the rest comes in another turn of the queue.
if [ "$code" = 75 ] && [ -z "$cancelled" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
