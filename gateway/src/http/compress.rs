//! Content codings of a stream: which one the client takes, and the stream in it.
//!
//! zstd where it is taken as gladly as gzip: it is several times faster at a better ratio, and the cores are the agents'
//! and brokers' too. Both at their fastest level. No deflate, which clients disagree about, and no brotli, whose fast
//! levels do nothing zstd does not.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue};
use zstd::stream::write::Encoder as ZstdEncoder;

/// zstd's fastest level of its regular ones.
const ZSTD_LEVEL: i32 = 1;

/// A coding that this gateway writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    /// The coding to answer in: the one the client gives the most weight, zstd of two with the same; `None` if it
    /// takes neither.
    pub(super) fn taken_by(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let (mut gzip, mut zstd, mut any) = (None, None, None);
        for coding in values.flat_map(|value| value.split(',')) {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.parse().ok());
            let weight: f32 = weight.unwrap_or(0.0);
            match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => gzip = Some(weight),
                "zstd" => zstd = Some(weight),
                "*" => any = Some(weight),
                _ => {}
            }
        }
        // Who takes anything can rarely be asked whether that includes zstd.
        let (gzip, zstd) = (gzip.or(any).unwrap_or(0.0), zstd.unwrap_or(0.0));
        if zstd > 0.0 && zstd >= gzip {
            Some(Self::Zstd)
        } else if gzip > 0.0 {
            Some(Self::Gzip)
        } else {
            None
        }
    }

    /// What `Content-Encoding` calls it.
    pub(super) fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// A stream in a coding.
pub(super) enum Compressor {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Compressor {
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Coding::Zstd => Self::Zstd(ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?),
        })
    }

    /// Takes in the next bytes, the last ones or not, and gives what is ready of the coded stream, perhaps nothing.
    ///
    /// # Errors
    /// There is no memory for it; the stream is then of no use any more.
    pub(super) fn write(&mut self, bytes: &[u8], is_last: bool) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => {
                encoder.write_all(bytes)?;
                if is_last {
                    encoder.try_finish()?;
                }
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder) => {
                encoder.write_all(bytes)?;
                if is_last {
                    encoder.do_finish()?;
                }
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_coding_with_the_most_weight_is_used_and_zstd_before_gzip() {
        let (gzip, zstd) = (Some(Coding::Gzip), Some(Coding::Zstd));
        for (value, expected) in [
            ("", None),
            ("gzip", gzip),
            ("br, GZIP;q=0.5", gzip),
            ("gzip; q=0", None),
            ("gzip;q=0.000, *", None),
            ("*;q=0.1, br", gzip),
            ("*;q=0", None),
            ("identity, zstd", zstd),
            ("gzip, deflate, br, zstd", zstd),
            ("zstd;q=0.5, gzip;q=0.8", gzip),
            ("zstd;q=0, *", gzip),
            ("zstd;q=0", None),
            ("gzip;q=x", None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(Coding::taken_by(&headers), expected, "{value:?}");
        }
        assert_eq!(Coding::taken_by(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn pieces_in_a_coding_are_the_pieces(
            coding in prop_oneof![Just(Coding::Gzip), Just(Coding::Zstd)],
            pieces in proptest::collection::vec(proptest::collection::vec(0..9_u8, 0..3000), 1..6),
        ) {
            let mut compressor = Compressor::new(coding).unwrap();
            let last = pieces.len() - 1;
            let coded: Vec<u8> = pieces
                .iter()
                .enumerate()
                .flat_map(|(at, piece)| compressor.write(piece, at == last).unwrap())
                .collect();
            let mut plain = Vec::new();
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut plain).unwrap(),
                Coding::Zstd => zstd::stream::read::Decoder::new(&coded[..]).unwrap().read_to_end(&mut plain).unwrap(),
            };
            prop_assert_eq!(plain, pieces.concat());
        }
    }
}
