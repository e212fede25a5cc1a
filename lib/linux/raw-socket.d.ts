/** What we use of raw-socket 1.8, which brings no types. */
declare module 'raw-socket' {
  export interface RawSocket {
    on(event: 'message', listener: (packet: Buffer, source: string) => void): void
    on(event: 'error', listener: (error: Error) => void): void
    send(
      packet: Buffer,
      offset: number,
      length: number,
      address: string,
      done: (error: Error | null, bytes: number) => void,
    ): void
    /** setsockopt(2). Throws Error. */
    setOption(level: number, option: number, value: Buffer, length: number): void
    close(): void
  }

  const raw: {
    Protocol: { ICMP: number; ICMPv6: number }
    AddressFamily: { IPv4: number; IPv6: number }
    createSocket(options: {
      protocol: number
      addressFamily?: number
      bufferSize?: number
    }): RawSocket
  }
  export default raw
}
