/** What ps shows for a packet path. */
export const PATH_TITLE = 'flanneld-path'
