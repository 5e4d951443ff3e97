// SHA-256 (FIPS 180-4): browsers have it only for pages of localhost and https, and a hospital's may be neither.

const PRIMES = primes(64)
const ROUNDS = Int32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime))) // 4.2.2
const START = Int32Array.from(PRIMES.slice(0, 8), (prime) => fraction(Math.sqrt(prime))) // 5.3.3

/** @param {number} count */
function primes(count) {
  /** @type {number[]} */
  const found = []
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime)) found.push(n)
  return found
}

/**
 * The first 32 bits behind the point.
 * @param {number} value
 */
function fraction(value) {
  return Math.floor((value - Math.floor(value)) * 2 ** 32) | 0
}

/**
 * 64 hex digits.
 * @param {Uint8Array} content
 */
export function sha256(content) {
  const state = START.slice()
  const whole = content.length - (content.length % 64)
  for (let at = 0; at < whole; at += 64) block(state, content, at)
  const rest = content.subarray(whole)
  const last = new Uint8Array(rest.length < 56 ? 64 : 128) // 5.1.1: a one, zeros, and the length in bits
  last.set(rest)
  last[rest.length] = 128
  const view = new DataView(last.buffer)
  view.setUint32(last.length - 8, Math.floor(content.length / 2 ** 29))
  view.setUint32(last.length - 4, content.length * 8) // modulo 2^32
  for (let at = 0; at < last.length; at += 64) block(state, last, at)
  return [...state].map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('')
}

const words = new Int32Array(64)

/**
 * Takes 64 bytes into the state: 6.2.2.
 * @param {Int32Array} state
 * @param {Uint8Array} bytes
 * @param {number} at
 */
function block(state, bytes, at) {
  for (let t = 0, i = at; t < 16; t++, i += 4) {
    words[t] = (bytes[i] << 24) | (bytes[i + 1] << 16) | (bytes[i + 2] << 8) | bytes[i + 3]
  }
  for (let t = 16; t < 64; t++) {
    const [x, y] = [words[t - 15], words[t - 2]]
    const low = turned(x, 7) ^ turned(x, 18) ^ (x >>> 3)
    const high = turned(y, 17) ^ turned(y, 19) ^ (y >>> 10)
    words[t] = (words[t - 16] + low + words[t - 7] + high) | 0
  }
  let [a, b, c, d, e, f, g, h] = state
  for (let t = 0; t < 64; t++) {
    const high = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)
    const first = (h + high + ((e & f) ^ (~e & g)) + (ROUNDS[t] + words[t])) | 0
    const low = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)
    const second = (low + ((a & b) ^ (a & c) ^ (b & c))) | 0
    h = g
    g = f
    f = e
    e = (d + first) | 0
    d = c
    c = b
    b = a
    a = (first + second) | 0
  }
  const added = [a, b, c, d, e, f, g, h]
  for (let i = 0; i < 8; i++) state[i] += added[i]
}

/**
 * @param {number} word
 * @param {number} bits
 */
function turned(word, bits) {
  return (word >>> bits) | (word << (32 - bits))
}
