// The elements of a DICOM file that are read, and DICOM's value representations (DICOM PS3.5, 6.2; PS3.6, 6).

/** The elements that are read, by pydicom's names: tag and value representation, as implicit VR does not say it. */
export const TAGS = /** @type {const} */ ({
  MediaStorageSOPClassUID: [0x00020002, 'UI'],
  TransferSyntaxUID: [0x00020010, 'UI'],
  SOPClassUID: [0x00080016, 'UI'],
  SamplesPerPixel: [0x00280002, 'US'],
  PhotometricInterpretation: [0x00280004, 'CS'],
  PlanarConfiguration: [0x00280006, 'US'],
  NumberOfFrames: [0x00280008, 'IS'],
  Rows: [0x00280010, 'US'],
  Columns: [0x00280011, 'US'],
  BitsAllocated: [0x00280100, 'US'],
  BitsStored: [0x00280101, 'US'],
  HighBit: [0x00280102, 'US'],
  PixelRepresentation: [0x00280103, 'US'],
  PixelPaddingValue: [0x00280120, 'XS'],
  PixelPaddingRangeLimit: [0x00280121, 'XS'],
  WindowCenter: [0x00281050, 'DS'],
  WindowWidth: [0x00281051, 'DS'],
  RescaleIntercept: [0x00281052, 'DS'],
  RescaleSlope: [0x00281053, 'DS'],
  VOILUTFunction: [0x00281056, 'CS'],
  RedPaletteColorLookupTableDescriptor: [0x00281101, 'XS'],
  GreenPaletteColorLookupTableDescriptor: [0x00281102, 'XS'],
  BluePaletteColorLookupTableDescriptor: [0x00281103, 'XS'],
  RedPaletteColorLookupTableData: [0x00281201, 'OW'],
  GreenPaletteColorLookupTableData: [0x00281202, 'OW'],
  BluePaletteColorLookupTableData: [0x00281203, 'OW'],
  ModalityLUTSequence: [0x00283000, 'SQ'],
  LUTDescriptor: [0x00283002, 'XS'],
  LUTData: [0x00283006, 'OW'],
  VOILUTSequence: [0x00283010, 'SQ'],
  ExtendedOffsetTable: [0x7fe00001, 'OV'],
  ExtendedOffsetTableLengths: [0x7fe00002, 'OV'],
  PixelData: [0x7fe00010, 'OW'],
})
/** @typedef {keyof typeof TAGS} Name */
/** Value representations by tag. */
export const KNOWN = new Map(
  Object.values(TAGS).map(([tag, vr]) => [/** @type {number} */ (tag), /** @type {string} */ (vr)]),
)

/** Value representations whose length takes 32 bits. */
export const LONG = new Set('OB OD OF OL OV OW SQ SV UC UN UR UT UV'.split(' '))
/** Those that numbers are not read from; DS and IS are texts of numbers. AT are tags. */
export const TEXTS = new Set('AE AS AT CS DA DT LO LT PN SH ST TM UC UI UR UT'.split(' '))
/** All that there are, with those of TAGS. */
export const VALUES = new Set([...LONG, ...TEXTS, ...'DS FD FL IS SL SS UL US XS'.split(' '), ''])
