# Made by "npm run documents" from the tables of flags and commands.
_flanneld_words() {
  local word=${COMP_LINE:0:COMP_POINT}
  word=${word##* }
  if [[ $word == --*=* ]]; then
    compopt -o default
    COMPREPLY=()
    return
  fi
  compopt -o nospace
  COMPREPLY=($(compgen -W "$1" -- "$word"))
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *= ]] && compopt +o nospace
}

_flanneld() {
  _flanneld_words "--etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --subnet-file= --state-dir= --run-dir= --iface= --iface-regex= --iface-timeout= --iface-can-reach= --public-ip= --public-ipv6= --subnet-lease-renew-margin= --subnet-lease-ttl= --release-on-exit --on-subnet-change= --ip-masq --ip-masq-fully-random-disable --iptables-forward-rules --iptables-resync= --ip-blackhole-route --healthz-ip= --healthz-port= --v= --log-level= --log-format= --node-id= --verify= --udp-queues= --status-listen= --peer-port= --probe-rate= --names-zone= --names-prefix= --docker-socket= --embedded-etcd --embedded-etcd-data-dir= --embedded-etcd-listen= --embedded-etcd-certfile= --embedded-etcd-keyfile= --embedded-etcd-insecure --init-network= --version --help"
}

_flannelctl() {
  local words=
  if ((COMP_CWORD == 1)); then
    _flanneld_words "status leases lease routes peers watch drops top why doctor capture report config takeover import network etcd-role docker-opts cleanup lab --version --help"
    return
  fi
  case ${COMP_WORDS[1]} in
    status) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password" ;;
    leases) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password" ;;
    lease) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --host= --for-ip=" ;;
    routes) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --probe" ;;
    peers) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --rate" ;;
    watch) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password" ;;
    drops) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password" ;;
    top) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --interval= --count=" ;;
    why) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --verbose --this-host" ;;
    doctor) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --verbose" ;;
    capture) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --output= --underlay --host= --protocol= --port= --count= --seconds= --snapshot-length=" ;;
    report) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --output=" ;;
    config) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --force" ;;
    takeover) words="--json --dry-run --go --back" ;;
    import) words="--json --output= --private-ipv4= --public-ipv4= --private-ipv6= --public-ipv6=" ;;
    network) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password" ;;
    etcd-role) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --names-prefix= --subnet= --host=" ;;
    docker-opts) words="" ;;
    cleanup) words="--json --subnet-file= --state-dir= --run-dir= --etcd-endpoints= --etcd-prefix= --etcd-keyfile= --etcd-certfile= --etcd-cafile= --etcd-username= --etcd-password= --etcd-password-file= --etcd-insecure-password --dry-run --state" ;;
    lab) words="" ;;
  esac
  _flanneld_words "$words --help"
}

complete -F _flanneld flanneld
complete -F _flannelctl flannelctl
