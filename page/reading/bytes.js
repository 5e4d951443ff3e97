// Bytes, put together and read.

/**
 * Numbers of at most 32 bits.
 * @typedef {Uint8Array | Int8Array | Uint16Array | Int16Array | Int32Array | Float64Array} Values
 */

/**
 * Parts, one behind the other.
 * @param {Uint8Array[]} parts
 */
export function joined(parts) {
  if (parts.length === 1) return parts[0]
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/**
 * What reads numbers of several bytes.
 * @param {Uint8Array} bytes
 */
export function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}

/**
 * Bytes as text of Latin-1, of which each letter is a byte.
 * @param {Uint8Array} bytes short ones
 */
export function textOf(bytes) {
  return String.fromCharCode(...bytes)
}

/**
 * Bytes as numbers of 8, 16 or 32 bits.
 * @param {Uint8Array} bytes
 * @param {number} bits
 * @param {boolean} little
 * @param {boolean} signed
 * @returns {Values}
 */
export function numbersOf(bytes, bits, little, signed) {
  if (bits === 8) return signed ? new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length) : bytes
  const view = viewOf(bytes)
  const count = Math.floor((bytes.length * 8) / bits)
  if (bits === 32) {
    const read = signed ? 'getInt32' : 'getUint32'
    return Float64Array.from({ length: count }, (_, i) => view[read](4 * i, little))
  }
  const values = signed ? new Int16Array(count) : new Uint16Array(count)
  for (let i = 0; i < count; i++) values[i] = view.getUint16(2 * i, little)
  return values
}
