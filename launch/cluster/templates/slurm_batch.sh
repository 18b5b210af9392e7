#!/bin/bash
# Trains with one worker a node. Submit it with `sbatch FILE`; change in it what does not fit.
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node=1
{% for directive in directives %}
#SBATCH {{ directive | safe }}
{% endfor %}
# The workers, not this script, get a signal that many seconds before the time limit, and save. Slurm may be a minute
# early.
#SBATCH --signal=USR1@{{ notice }}
# A job whose node is lost goes back into the queue, and adds to its log when it runs again.
#SBATCH --requeue
#SBATCH --open-mode=append

# A shared folder, the same on all nodes. Tasks of an array are runs of their own: give `sbatch --array=0-4` this file,
# and use $SLURM_ARRAY_TASK_ID in the flags below for what tells them apart, such as the seed.
workdir={{ workdir }}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}

# scancel reaches this script too, the notice of the time limit does not.
cancelled= interrupted=yes
trap 'cancelled=yes interrupted=yes' TERM

# Each attempt is one srun: an agent on every node, which starts the trainer there. When one fails all are killed, and
# another srun on the same nodes continues from the latest checkpoint, until no restarts are left.
{{ mirrorline }} launch --workers={{ workers }} \
{% if limits %}
  {{ limits }} \
{% endif %}
  --srun={{ srun }} \
  -- {{ command }} --workdir="$workdir" &
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
