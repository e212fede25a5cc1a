/** What was decided before a subnet is held has changed: prepare the network again. */
export class Rejoin extends Error {
  override readonly name = 'Rejoin'
}
