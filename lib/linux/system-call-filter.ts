import * as libc from './libc.js'

/**
 * A filter of seccomp(2) for a process that has everything it will ever need: no file is
 * opened or changed by its path any more, no program started, no process signalled, and no
 * socket made but of UDP. What is refused fails with EPERM.
 */

// include/uapi/linux/seccomp.h
const SECCOMP_SET_MODE_FILTER = 1
const SECCOMP_FILTER_FLAG_TSYNC = 1
const SECCOMP_RET_ALLOW = 0x7fff_0000
const SECCOMP_RET_ERRNO = 0x0005_0000
const EPERM = 1

// struct seccomp_data: number (4 bytes), architecture (4), instruction pointer (8), arguments (8 each).
const NUMBER = 0
const ARCHITECTURE = 4
const ARGUMENTS = 16

// include/uapi/linux/bpf_common.h: classes, sizes and modes of classic BPF.
const LOAD = 0x20 // BPF_LD | BPF_W | BPF_ABS
const AND = 0x54 // BPF_ALU | BPF_AND | BPF_K
const JUMP_EQUAL = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_EQUAL = 0x35 // BPF_JMP | BPF_JGE | BPF_K
const RETURN = 0x06 // BPF_RET | BPF_K

// include/linux/socket.h
const AF_INET = 2
const AF_INET6 = 10
const SOCK_DGRAM = 2
const SOCK_TYPE_MASK = 0xf

/** include/uapi/linux/in.h */
const IPPROTO_UDP = 17

interface Architecture {
  /** include/uapi/linux/audit.h */
  readonly audit: number
  /** System calls from here on are those of another convention. */
  readonly foreignFrom?: number
  readonly socket: number
  readonly seccomp: number
  readonly refused: readonly number[]
}

/** Numbers that are the same everywhere (include/uapi/asm-generic/unistd.h, from 424 on). */
const COMMON = [
  ...[424, 434, 438], // pidfd_send_signal, pidfd_open, pidfd_getfd
  // Of rings, and of that which libuv may have made before: what is done by them passes no filter.
  ...[425, 426, 427], // io_uring_setup, io_uring_enter, io_uring_register
  ...[428, 437, 452], // open_tree, openat2, fchmodat2
]

const ARCHITECTURES: Partial<Record<string, Architecture>> = {
  // arch/x86/entry/syscalls/syscall_64.tbl
  x64: {
    audit: 0xc000_003e,
    foreignFrom: 0x4000_0000,
    socket: 41,
    seccomp: 317,
    refused: [
      ...[2, 85, 257, 304], // open, creat, openat, open_by_handle_at
      ...[59, 322, 57, 58], // execve, execveat, fork, vfork
      ...[101, 310, 311], // ptrace, process_vm_readv, process_vm_writev
      ...[62, 200, 234, 129, 297], // kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
      ...[82, 83, 84, 86, 87, 88, 133], // rename, mkdir, rmdir, link, unlink, symlink, mknod
      ...[258, 259, 260, 263, 264, 265, 266, 268, 316], // mkdirat … renameat2
      ...[76, 90, 92, 94, 132, 235, 261, 280, 188, 189], // truncate, chmod, chown, lchown, utime …, setxattr, lsetxattr
      ...[165, 166, 155, 161, 272, 308], // mount, umount2, pivot_root, chroot, unshare, setns
      ...[50, 49], // listen, bind
      ...COMMON,
    ],
  },
  // include/uapi/asm-generic/unistd.h
  arm64: {
    audit: 0xc000_00b7,
    socket: 198,
    seccomp: 277,
    refused: [
      ...[56, 265], // openat, open_by_handle_at
      ...[221, 281], // execve, execveat
      ...[117, 270, 271], // ptrace, process_vm_readv, process_vm_writev
      ...[129, 130, 131, 138, 240], // kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
      ...[45, 88, 5, 6], // truncate, utimensat, setxattr, lsetxattr
      ...[33, 34, 35, 36, 37, 38, 53, 54, 276], // mknodat … renameat2
      ...[39, 40, 41, 51, 97, 268], // umount2, mount, pivot_root, chroot, unshare, setns
      ...[200, 201], // bind, listen
      ...COMMON,
    ],
  },
}

/** The kernel reads it by its address: it must not be collected meanwhile. */
let program: Buffer

/**
 * Confines this process, all of its threads, for good. Needs PR_SET_NO_NEW_PRIVS. Returns
 * false where that cannot be had: from the kernel, or because this program has no numbers
 * for its processor.
 */
export function refuseNewResources(): boolean {
  const architecture = ARCHITECTURES[process.arch]
  if (architecture === undefined) return false
  program = filterProgram(architecture)
  // struct sock_fprog: count of instructions (2 bytes), their address (8, aligned).
  const description = Buffer.alloc(16)
  description.writeUInt16LE(program.length / INSTRUCTION, 0)
  description.writeBigUInt64LE(BigInt(libc.addressOf(program)), 8)
  const code = libc.syscall(
    architecture.seccomp,
    SECCOMP_SET_MODE_FILTER,
    SECCOMP_FILTER_FLAG_TSYNC,
    description,
  )
  // Refused where seccomp itself is filtered, as by a unit that does not permit it.
  return code === 0
}

/** struct sock_filter: code (2 bytes), jump if true and if false (1 each), operand (4). */
const INSTRUCTION = 8

function filterProgram({ audit, foreignFrom, socket, refused }: Architecture): Buffer {
  const lines: [code: number, ifTrue: Label, ifFalse: Label, operand: number][] = [
    [LOAD, 'next', 'next', ARCHITECTURE],
    [JUMP_EQUAL, 'next', 'refuse', audit],
    [LOAD, 'next', 'next', NUMBER],
    ...(foreignFrom === undefined
      ? []
      : [
          [JUMP_GREATER_EQUAL, 'refuse', 'next', foreignFrom] as [
            number,
            Label,
            Label,
            number,
          ],
        ]),
    ...refused.map(
      number => [JUMP_EQUAL, 'refuse', 'next', number] as [number, Label, Label, number],
    ),
    [JUMP_EQUAL, 'next', 'allow', socket],
    [LOAD, 'next', 'next', ARGUMENTS],
    [JUMP_EQUAL, 'skip', 'next', AF_INET],
    [JUMP_EQUAL, 'next', 'refuse', AF_INET6],
    [LOAD, 'next', 'next', ARGUMENTS + 8],
    [AND, 'next', 'next', SOCK_TYPE_MASK],
    [JUMP_EQUAL, 'next', 'refuse', SOCK_DGRAM],
    // Not of ICMP, L2TP and whatever else comes in datagrams.
    [LOAD, 'next', 'next', ARGUMENTS + 16],
    [JUMP_EQUAL, 'allow', 'next', 0],
    [JUMP_EQUAL, 'allow', 'refuse', IPPROTO_UDP],
  ]
  const [allow, refuse] = [lines.length, lines.length + 1]
  const distance = (label: Label, at: number): number =>
    ({ next: 0, skip: 1, allow: allow - at - 1, refuse: refuse - at - 1 })[label]
  const bytes = Buffer.alloc((lines.length + 2) * INSTRUCTION)
  const write = (
    at: number,
    code: number,
    yes: number,
    no: number,
    operand: number,
  ): void => {
    bytes.writeUInt16LE(code, at * INSTRUCTION)
    bytes.writeUInt8(yes, at * INSTRUCTION + 2)
    bytes.writeUInt8(no, at * INSTRUCTION + 3)
    bytes.writeUInt32LE(operand, at * INSTRUCTION + 4)
  }
  for (const [at, [code, ifTrue, ifFalse, operand]] of lines.entries())
    write(at, code, distance(ifTrue, at), distance(ifFalse, at), operand)
  write(allow, RETURN, 0, 0, SECCOMP_RET_ALLOW)
  write(refuse, RETURN, 0, 0, SECCOMP_RET_ERRNO | EPERM)
  return bytes
}

type Label = 'next' | 'skip' | 'allow' | 'refuse'
