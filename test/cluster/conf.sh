# Settings and functions that build, up, down, image and cut share.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KUBE=${KUBE_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/psock-kube} # binaries, images and state
BIN=$KUBE/bin
ETC=$KUBE/etc
PKI=$KUBE/pki
RUN=$KUBE/run
VAR=$KUBE/var
LOG=$KUBE/log
IMG=$KUBE/images

NODES=${NODES:-$(cat $ETC/nodes 2>/dev/null || echo 2)} # n1..nN, each in its own network namespace
BR=kube-br0       # bridge of the nodes, on the host
NODENET=10.99.0
CP=$NODENET.1     # the control plane listens here
PODNET=10.244
SVCNET=10.96.0.0/16
DNSIP=10.96.0.10
ETCDPORT=12379 # out of the way of the ports that ./test uses, from 20000 on
ETCDPEER=12380
# up makes each node's cgroup in each of these; runc adds one under unified.
CGS="cpu cpuacct cpuset memory devices freezer blkio pids systemd"

export KUBECONFIG=$ETC/admin.conf
export PATH=$BIN:$PATH

node_ip() { echo $NODENET.1$1; }          # n1 -> 10.99.0.11
node_cidr() { echo $PODNET.$1.0/24; }     # n1 -> 10.244.1.0/24
sock() { echo $RUN/n$1/containerd.sock; }

starttime() { awk '{sub(/^.*\) /, ""); print $20}' /proc/$1/stat 2>/dev/null; }

# alive NAME: the process that was started under NAME still runs. Pid and start time
# both match, so that a pid which is used again is nobody of ours.
alive() {
  local pid time
  read -r pid time 2>/dev/null < $RUN/$1.pid || return 1
  [ -n "$pid" ] && [ -n "$time" ] && [ "$(starttime $pid)" = "$time" ]
}

# start NAME COMMAND...: in the background, with its log; nothing if it runs already.
start() {
  local name=$1
  shift
  alive $name && return 0
  mkdir -p $LOG
  (
    cd /
    # What the caller has open, such as a lock that it runs under, is not the program's.
    for fd in /proc/$BASHPID/fd/*; do
      fd=${fd##*/}
      [ $fd -lt 3 ] || [ $fd = 255 ] || eval "exec $fd>&-" # 255: bash's own, closed by exec
    done
    exec setsid "$@" >> $LOG/$name.log 2>&1 < /dev/null
  ) &
  local pid=$!
  echo "$pid $(starttime $pid)" > $RUN/$name.pid
  disown $pid 2>/dev/null
}

# stop NAME [SECONDS]: SIGTERM, and SIGKILL if it has not ended by then.
stop() {
  local pid time i
  alive $1 || { rm -f $RUN/$1.pid; return 0; }
  read -r pid time < $RUN/$1.pid
  kill -TERM $pid 2>/dev/null
  for ((i = 0; i < ${2:-10} * 10; i++)); do
    alive $1 || { rm -f $RUN/$1.pid; return 0; }
    sleep .1
  done
  kill -KILL $pid 2>/dev/null
  sleep .2
  rm -f $RUN/$1.pid
}

# waitfor SECONDS COMMAND...: until it succeeds.
waitfor() {
  local limit=$1 i
  shift
  for ((i = 0; i < limit * 5; i++)); do
    "$@" >/dev/null 2>&1 && return 0
    sleep .2
  done
  return 1
}
