#!/bin/bash
# Trains with one worker per node. Submit it with `sbatch FILE`; edit it where needed.
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node=1
{% for directive in directives %}
#SBATCH {{ directive | safe }}
{% endfor %}
# The workers, not this script, get a signal so many seconds before the time limit, and save. Slurm may be a minute early.
#SBATCH --signal=USR1@{{ notice }}
# A job whose node is lost is requeued, and appends to its log when it runs again.
#SBATCH --requeue
#SBATCH --open-mode=append

# A shared folder, the same on all nodes. Tasks of an array are separate runs: submit this file with `sbatch --array=0-4`
# and use $SLURM_ARRAY_TASK_ID in the flags below for what distinguishes them, such as the seed.
workdir={{ workdir }}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}

# scancel signals this script too, the time limit does not.
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

# 75: the run is saved. After the time limit it continues when the job runs again.
if [ "$code" = 75 ] && [ -z "$cancelled" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
