//! Changes that keep an input's form, beside libFuzzer's own, which seldom hit a whole value: fields of a text are
//! given other values, dropped, doubled and swapped, and so are those of a message of the wire.

use libfuzzer_sys::fuzzer_mutate;

/// Many numbers out of one (xorshift, Marsaglia 2003).
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero, and near seeds would begin alike.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1)
    }

    /// A number below this one; 0 below 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11).checked_rem(bound).unwrap_or_default()
    }

    /// An index of something so long.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }
}

/// How a text is divided into fields, and a field into name and value.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Between fields.
    pub separator: char,
    /// Between name and value.
    pub equals: &'static str,
    /// Values at which something changes.
    pub values: &'static [&'static str],
    /// Texts that are accepted. Every third change is one of these: what a parser refuses in ever new ways would
    /// otherwise crowd them out.
    pub accepted: &'static [&'static str],
}

/// Mutates libFuzzer's buffer: every other time by `change`, which leaves its first `kept` bytes as they are, otherwise
/// as libFuzzer does. Gives the new size.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    kept: usize,
    change: impl Fn(&[u8], &mut Noise) -> Option<Vec<u8>>,
) -> usize {
    let mut noise = Noise::new(seed.into());
    if size > kept && noise.below(2) == 0 {
        let changed = change(&data[kept..size], &mut noise);
        if let Some(changed) = changed.filter(|changed| kept + changed.len() <= max_size) {
            data[kept..kept + changed.len()].copy_from_slice(&changed);
            return kept + changed.len();
        }
    }
    fuzzer_mutate(data, size, max_size)
}

/// A text with some of its fields changed.
pub fn text(input: &[u8], form: Form, noise: &mut Noise) -> Option<Vec<u8>> {
    let own = std::str::from_utf8(input).ok()?;
    let text = if noise.below(3) == 0 { form.accepted[noise.index(form.accepted.len())] } else { own };
    let mut fields: Vec<String> = text.split(form.separator).map(str::to_owned).collect();
    for _ in 0..=noise.below(2) {
        let at = noise.index(fields.len());
        if let Some((name, old)) = fields.get(at)?.split_once(form.equals).filter(|_| noise.below(3) > 0) {
            let mut any = || form.values[noise.index(form.values.len())];
            // Mostly one of the old one's kind, which gets further.
            let value = (0..8).map(|_| any()).find(|value| kind(value) == kind(old)).unwrap_or_else(any);
            fields[at] = format!("{name}{}{value}", form.equals);
        } else {
            rearrange(&mut fields, noise);
        }
    }
    Some(fields.join(&form.separator.to_string()).into_bytes())
}

/// Of texts that begin with a quote, with a digit or otherwise.
fn kind(value: &str) -> u8 {
    match value.bytes().next() {
        Some(b'"' | b'\'') => 0,
        Some(b'0'..=b'9' | b'-') => 1,
        _ => 2,
    }
}

/// An encoded message with some of its fields rearranged, or those of a message in it.
pub fn message(input: &[u8], noise: &mut Noise) -> Option<Vec<u8>> {
    let mut fields = split(input)?;
    let at = noise.index(fields.len());
    let inner = fields.get(at)?.length_delimited.filter(|_| noise.below(2) == 0);
    if let Some(start) = inner {
        let field = &fields[at].bytes;
        let (tag, _) = varint(field)?;
        let changed = message(&field[start..], noise)?;
        let mut bytes = field[..tag].to_vec();
        prost::encoding::encode_varint(changed.len() as u64, &mut bytes);
        bytes.extend(changed);
        fields[at].bytes = bytes;
    } else {
        rearrange(&mut fields, noise);
    }
    Some(fields.into_iter().flat_map(|field| field.bytes).collect())
}

/// Drops a field, doubles one, or changes the places of two.
fn rearrange<T: Clone>(fields: &mut Vec<T>, noise: &mut Noise) {
    if fields.is_empty() {
        return;
    }
    let (one, other) = (noise.index(fields.len()), noise.index(fields.len()));
    match noise.below(4) {
        0 => drop(fields.remove(one)),
        1 => fields.swap(one, other),
        _ => fields.insert(other, fields[one].clone()),
    }
}

/// A field of an encoded message.
#[derive(Clone, Debug)]
struct Field {
    /// Tag and value.
    bytes: Vec<u8>,
    /// Where its content begins, if it has a length.
    length_delimited: Option<usize>,
}

fn split(mut input: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !input.is_empty() {
        let (tag, kind) = varint(input)?;
        let rest = &input[tag..];
        let (head, length) = match kind & 7 {
            0 => (0, varint(rest)?.0),
            1 => (0, 8),
            2 => varint(rest).map(|(head, length)| (head, usize::try_from(length).unwrap_or(usize::MAX)))?,
            5 => (0, 4),
            _ => return None,
        };
        let start = tag + head;
        let end = start.checked_add(length).filter(|end| *end <= input.len())?;
        let length_delimited = (kind & 7 == 2).then_some(start);
        fields.push(Field { bytes: input[..end].to_vec(), length_delimited });
        input = &input[end..];
    }
    Some(fields)
}

/// How many bytes a number takes, and the number.
fn varint(input: &[u8]) -> Option<(usize, u64)> {
    let mut rest = input;
    let number = prost::encoding::decode_varint(&mut rest).ok()?;
    Some((input.len() - rest.len(), number))
}
