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
    close(): void
  }

  const raw: {
    Protocol: { ICMP: number }
    createSocket(options: { protocol: number; bufferSize?: number }): RawSocket
    /** The Internet checksum (RFC 1071) of the whole buffer. */
    createChecksum(packet: Buffer): number
    writeChecksum(packet: Buffer, offset: number, checksum: number): void
  }
  export default raw
}
