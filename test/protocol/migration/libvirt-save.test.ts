// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import {
  dataOffsetOf,
  formatSaveImage,
  isSaveImage,
  parseSaveHeader,
  parseSaveImage,
  SAVE_HEADER_LENGTH,
  type SaveFormat,
  type SaveImage,
  withFormat,
} from '../../../protocol/migration/libvirt-save.js'
import { streams, unpack } from '../../helpers/migration/fixtures.js'
import { bytesOf, outcome, parsesWhenWhole } from '../../helpers/migration/prefix.js'
import { mutate } from '../../helpers/mutate.js'
import { holds } from '../../helpers/property.js'

const formats: readonly SaveFormat[] = ['raw', 'gzip', 'bzip2', 'xz', 'lzop', 'zstd', 'sparse']

function parsed(bytes: Uint8Array): SaveImage {
  const found = parseSaveImage(bytes)
  if (found === undefined) throw new Error('more bytes are needed')
  return found.value
}

for (const { file, start_offset = 0, libvirt_header: expected } of streams) {
  if (expected === undefined) continue
  const other: SaveFormat = expected.format === 0 ? 'sparse' : 'raw'

  t.test(`${file}: header and area are what the manifest says, and are written as they were`, (t) => {
    const bytes = unpack(file).subarray(0, start_offset)
    const { header, xml, cookie } = parsed(bytes)
    t.strictSame(
      {
        magic: header.complete ? 'LibvirtQemudSave' : 'LibvirtQemudPart',
        version: header.version,
        data_len: header.areaLength,
        was_running: header.wasRunning ? 1 : 0,
        format: formats.indexOf(header.format),
        cookie_offset: header.cookieOffset,
        xml_length: xml.length,
        cookie,
      },
      expected,
    )
    t.equal(dataOffsetOf(header), start_offset)
    t.ok(isSaveImage(bytes))
    t.ok(bytes.equals(formatSaveImage({ header, xml, cookie })))
    t.end()
  })

  t.test(`${file}: the header is read from any prefix`, (t) => {
    const header = parsesWhenWhole(t, unpack(file).subarray(0, SAVE_HEADER_LENGTH), parseSaveHeader)
    t.match(header, { byteOrder: 'little', complete: true, version: 2 })
    t.end()
  })

  t.test(`${file}: another format changes one field`, (t) => {
    const bytes = unpack(file).subarray(0, start_offset)
    const { header } = parsed(bytes)
    const changed = withFormat(bytes, header, other)
    t.match(parsed(changed).header, { ...header, format: other })
    t.ok(bytes.equals(withFormat(changed, header, header.format)))
    t.equal(bytes.filter((byte, index) => byte !== changed[index]).length, 1)
    t.end()
  })
}

const text = fc.string({ maxLength: 80, unit: 'grapheme' }).filter((one) => !one.includes('\0'))
const image: fc.Arbitrary<SaveImage> = fc
  .record({
    byteOrder: fc.constantFrom('little', 'big'),
    complete: fc.boolean(),
    wasRunning: fc.boolean(),
    format: fc.constantFrom(...formats),
    xml: text,
    cookie: fc.option(text, { nil: undefined }),
    spare: fc.nat(100),
  })
  .map(({ xml, cookie, spare, ...rest }) => {
    const cookieOffset = cookie === undefined ? 0 : Buffer.byteLength(xml) + 1
    const areaLength =
      Buffer.byteLength(xml) + 1 + (cookie === undefined ? 0 : Buffer.byteLength(cookie) + 1) + spare
    return { header: { ...rest, version: 2, areaLength, cookieOffset }, xml, cookie }
  })

t.test('any image comes back from its bytes, in both byte orders, and every cut asks for more', (t) => {
  const property = fc.property(image, fc.nat(), (value, cut) => {
    const bytes = formatSaveImage(value)
    const found = parsed(bytesOf(bytes, 'QEVM'))
    const { header, xml, cookie } = found
    const same = xml === value.xml && cookie === value.cookie && header.byteOrder === value.header.byteOrder
    const again = Buffer.from(formatSaveImage(found)).equals(bytes)
    return same && again && parseSaveImage(bytes.subarray(0, cut % bytes.length)) === undefined
  })
  holds(t, property, 300)
  t.end()
})

const sample: SaveImage = {
  header: {
    byteOrder: 'little',
    complete: true,
    version: 2,
    areaLength: 100,
    wasRunning: true,
    format: 'sparse',
    cookieOffset: 10,
  },
  xml: '<domain/>',
  cookie: '<cookie/>',
}
const put = (at: number, value: number) => {
  const bytes = Buffer.from(formatSaveImage(sample))
  bytes.writeUInt32LE(value, at)
  return bytes
}

const wrong = [
  {
    name: 'another magic number',
    bytes: bytesOf('LibvirtX'),
    says: 'at offset 7: found 0x58, expected 0x51',
  },
  { name: 'neither finished nor begun', bytes: bytesOf('LibvirtQemudXXXX'), says: 'found "XXXX"' },
  { name: 'version 3', bytes: put(16, 3), says: 'found 03 00 00 00, expected 2' },
  { name: 'version 0', bytes: put(16, 0), says: 'found 00 00 00 00' },
  { name: 'no XML', bytes: put(20, 0), says: 'found 0, expected 1 to' },
  { name: 'XML of 4 GiB', bytes: put(20, 0xffff_ffff), says: 'found 4294967295' },
  { name: 'another state', bytes: put(24, 2), says: 'found 2, expected 0 or 1' },
  { name: 'format 7', bytes: put(28, 7), says: 'format of the save image: found 7, expected 0 to 6' },
  { name: 'a cookie behind the area', bytes: put(32, 100), says: 'found 100, expected less than 100' },
  { name: 'XML without end', bytes: put(32, 5), says: 'XML of the save image: found no NUL' },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a save image is refused: ${name}`, (t) => {
    t.throws(() => parseSaveImage(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('an unfinished image is seen as that', (t) => {
  const bytes = formatSaveImage({ ...sample, header: { ...sample.header, complete: false } })
  t.same(bytes.subarray(0, 16), bytesOf('LibvirtQemudPart'))
  t.ok(isSaveImage(bytes))
  t.equal(parsed(bytes).header.complete, false)
  t.notOk(isSaveImage(bytesOf('LibvirtQemud')))
  t.end()
})

t.test('text that does not fit the lengths of the header is not written', (t) => {
  t.throws(() => formatSaveImage({ ...sample, xml: '<domain  />' }), {
    message: /found 11 bytes of text, expected less than 10/,
  })
  t.throws(() => formatSaveImage({ ...sample, cookie: 'x'.repeat(90) }), FormatError)
  t.end()
})

t.test('damaged images are refused or images, nothing else', (t) => {
  const property = fc.property(fc.infiniteStream(fc.nat()), fc.nat(), (numbers, cut) => {
    const bytes = Buffer.from(formatSaveImage(sample))
    mutate(bytes, 40, (below) => (numbers.next().value ?? 0) % below)
    outcome(parseSaveImage, bytes.subarray(0, cut % (bytes.length + 1)))
    return true
  })
  holds(t, property, 2000)
  t.end()
})
