// What a graph says of itself, without a library: onnxruntime-web shows no metadata.

const METADATA = 14 // the field `metadata_props` of onnx.proto3's ModelProto
const [NUMBER, EIGHT, LENGTH, FOUR] = [0, 1, 2, 5] // how protobuf writes a field

/**
 * The metadata of an ONNX file, text by name.
 * @param {Uint8Array} content the bytes of the file
 * @returns {Map<string, string>}
 * @throws {Error} on what is no ONNX file
 */
export function metadataOf(content) {
  const found = new Map()
  for (const [field, entry] of fieldsOf(content)) {
    if (field !== METADATA || !(entry instanceof Uint8Array)) continue
    // StringStringEntryProto: 1 is the key, 2 the value; what is not written is empty.
    const pair = new Map(fieldsOf(entry))
    found.set(text(pair.get(1)), text(pair.get(2)))
  }
  return found
}

/** @param {Uint8Array | number | undefined} bytes */
function text(bytes) {
  return bytes instanceof Uint8Array ? new TextDecoder().decode(bytes) : ''
}

/**
 * The fields of a message: their numbers, and bytes or a number; of fixed-width fields, which no text is, 0.
 * @param {Uint8Array} content
 * @returns {Generator<[number, Uint8Array | number]>}
 */
function* fieldsOf(content) {
  let at = 0

  /** A number of protobuf's: 7 bits a byte, the lowest first, 10 bytes at most. */
  function varint() {
    let value = 0
    for (let k = 0; k < 10; k++) {
      const byte = content[at++]
      if (byte === undefined) break
      value += (byte & 127) * 2 ** (7 * k) // exact to 2^53, more than a file is long
      if (byte < 128) return value
    }
    throw new Error('not an ONNX file')
  }

  while (at < content.length) {
    const key = varint()
    const [field, kind] = [Math.floor(key / 8), key % 8]
    if (kind === NUMBER) {
      yield [field, varint()]
    } else if (kind === LENGTH) {
      const length = varint()
      if (at + length > content.length) throw new Error('not an ONNX file')
      yield [field, content.subarray(at, at + length)]
      at += length
    } else if (kind === EIGHT || kind === FOUR) {
      yield [field, 0]
      at += kind === EIGHT ? 8 : 4
    } else {
      throw new Error('not an ONNX file')
    }
  }
}
