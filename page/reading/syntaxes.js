// DICOM's transfer syntaxes, and other names that an error line needs (DICOM PS3.6, annex A).

export const RLE = '1.2.840.10008.1.2.5'
const NATIVE = ['1.2.840.10008.1.2', '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.1.99', '1.2.840.10008.1.2.2']
const HIGH_THROUGHPUT = 'High-Throughput JPEG 2000'
const NAMES = new Map(
  /** @type {[string, string][]} */ ([
    ['1.2', 'Implicit VR Little Endian'],
    ['1.2.1', 'Explicit VR Little Endian'],
    ['1.2.1.99', 'Deflated Explicit VR Little Endian'],
    ['1.2.2', 'Explicit VR Big Endian'],
    ['1.2.4.50', 'JPEG Baseline (Process 1)'],
    ['1.2.4.51', 'JPEG Extended (Process 2 and 4)'],
    ['1.2.4.57', 'JPEG Lossless, Non-Hierarchical (Process 14)'],
    ['1.2.4.70', 'JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])'],
    ['1.2.4.80', 'JPEG-LS Lossless Image Compression'],
    ['1.2.4.81', 'JPEG-LS Lossy (Near-Lossless) Image Compression'],
    ['1.2.4.90', 'JPEG 2000 Image Compression (Lossless Only)'],
    ['1.2.4.91', 'JPEG 2000 Image Compression'],
    ['1.2.4.100', 'MPEG2 Main Profile / Main Level'],
    ['1.2.4.101', 'MPEG2 Main Profile / High Level'],
    ['1.2.4.102', 'MPEG-4 AVC/H.264 High Profile / Level 4.1'],
    ['1.2.4.103', 'MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1'],
    ['1.2.4.201', `${HIGH_THROUGHPUT} Image Compression (Lossless Only)`],
    ['1.2.4.202', `${HIGH_THROUGHPUT} with RPCL Options Image Compression (Lossless Only)`],
    ['1.2.4.203', `${HIGH_THROUGHPUT} Image Compression`],
    ['1.2.5', 'RLE Lossless'],
    ['5.1.4.1.1.1', 'Computed Radiography Image Storage'],
    ['5.1.4.1.1.1.1', 'Digital X-Ray Image Storage - For Presentation'],
    ['5.1.4.1.1.1.1.1', 'Digital X-Ray Image Storage - For Processing'],
    ['5.1.4.1.1.7', 'Secondary Capture Image Storage'],
    ['5.1.4.1.1.11.1', 'Grayscale Softcopy Presentation State Storage'],
    ['5.1.4.1.1.88.11', 'Basic Text SR Storage'],
    ['5.1.4.1.1.88.22', 'Enhanced SR Storage'],
    ['5.1.4.1.1.88.33', 'Comprehensive SR Storage'],
    ['5.1.4.1.1.88.59', 'Key Object Selection Document Storage'],
    ['5.1.4.1.1.88.67', 'X-Ray Radiation Dose SR Storage'],
    ['5.1.4.1.1.104.1', 'Encapsulated PDF Storage'],
  ]).map(([end, name]) => [`1.2.840.10008.${end}`, name]),
)
/**
 * How the pixels of a transfer syntax are compressed.
 * @type {Map<string, 'jpeg' | 'lossless' | 'jpegls' | 'jpeg2000'>}
 */
export const CODINGS = new Map([
  ['1.2.840.10008.1.2.4.50', 'jpeg'],
  ['1.2.840.10008.1.2.4.51', 'jpeg'],
  ['1.2.840.10008.1.2.4.57', 'lossless'],
  ['1.2.840.10008.1.2.4.70', 'lossless'],
  ['1.2.840.10008.1.2.4.80', 'jpegls'],
  ['1.2.840.10008.1.2.4.81', 'jpegls'],
  ['1.2.840.10008.1.2.4.90', 'jpeg2000'],
  ['1.2.840.10008.1.2.4.91', 'jpeg2000'],
  ['1.2.840.10008.1.2.4.201', 'jpeg2000'],
  ['1.2.840.10008.1.2.4.202', 'jpeg2000'],
  ['1.2.840.10008.1.2.4.203', 'jpeg2000'],
])

/**
 * A UID in words, or as it is.
 * @param {string} uid
 */
export function nameOf(uid) {
  return NAMES.get(uid) ?? uid
}

/**
 * Whether pixels in a transfer syntax are compressed.
 * @param {string} uid
 */
export function isEncapsulated(uid) {
  return !NATIVE.includes(uid)
}
