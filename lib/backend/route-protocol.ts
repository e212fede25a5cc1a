/**
 * The protocol number of our routes (rtm_protocol, include/uapi/linux/rtnetlink.h):
 * a number above the kernel's own that no entry of iproute2's rt_protos uses.
 * Together with our device or Network it tells our routes from anybody's.
 */
export const ROUTE_PROTOCOL = 76

/** Larger than any metric in use, so that every other route to the same addresses wins. */
export const LAST_METRIC = 4_278_198_272
