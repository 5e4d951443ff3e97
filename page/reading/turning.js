// The orientation that EXIF data ask for.

/**
 * The orientation in EXIF data, 1 to 8; 1, upright, where there are none or they are damaged (Exif 2.32, 4.6.4).
 * @param {Uint8Array | null} data EXIF data from their byte order on, without "Exif\0\0"
 * @returns {number}
 */
export function orientationOf(data) {
  if (!data || data.length < 10) return 1
  const mark = String.fromCharCode(...data.subarray(0, 4))
  if (mark !== 'II*\0' && mark !== 'MM\0*') return 1
  const [view, little] = [new DataView(data.buffer, data.byteOffset, data.length), mark[0] === 'I']
  const place = view.getUint32(4, little)
  if (place + 2 > data.length) return 1
  const end = Math.min(place + 2 + 12 * view.getUint16(place, little), data.length - 11)
  for (let start = place + 2; start < end; start += 12) {
    if (view.getUint16(start, little) !== 0x0112) continue
    const [kind, values] = [view.getUint16(start + 2, little), view.getUint32(start + 4, little)]
    const value = view.getUint16(start + 8, little)
    return kind === 3 && values === 1 && value >= 1 && value <= 8 ? value : 1
  }
  return 1
}

/**
 * Pixels as EXIF's orientation wants them shown.
 * @param {Uint8Array} grey (height, width), row by row
 * @param {number} height
 * @param {number} width
 * @param {number} orientation 1 to 8; from 5 on, height and width change places
 * @returns {{grey: Uint8Array, height: number, width: number}}
 */
export function upright(grey, height, width, orientation) {
  if (orientation === 1) return { grey, height, width }
  const transposed = orientation >= 5
  const [rows, columns] = transposed ? [width, height] : [height, width]
  // How far apart neighbours in the turned picture are in this one.
  let [down, right] = transposed ? [1, width] : [width, 1]
  let start = 0
  if ([2, 3, 6, 7].includes(orientation)) {
    start += right * (columns - 1)
    right = -right
  }
  if ([3, 4, 7, 8].includes(orientation)) {
    start += down * (rows - 1)
    down = -down
  }
  const turned = new Uint8Array(grey.length)
  for (let row = 0, to = 0; row < rows; row++) {
    for (let column = 0, from = start + row * down; column < columns; column++, from += right) turned[to++] = grey[from]
  }
  return { grey: turned, height: rows, width: columns }
}
