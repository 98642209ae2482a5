//! Where the body of an HTTP/1.1 response ends, told while it arrives and without keeping it.

/// What is left of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Whatever comes until the connection ends.
    UntilClose,
}

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Bytes of the head.
    pub length: usize,
    /// What follows it.
    pub body: Body,
}

impl Head {
    /// The head these bytes begin with, once it is there.
    ///
    /// # Errors
    /// They are no HTTP response.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, String> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(bytes).map_err(|error| format!("no HTTP response: {error}"))? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        let status = head.code.unwrap_or_default();
        let value = |name: &str| {
            let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let is_chunked =
            value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let body = match value("content-length").map(str::parse) {
            _ if matches!(status, 204 | 304) => Body::Length(0),
            _ if is_chunked => Body::Chunked(Chunks::default()),
            Some(length) => {
                Body::Length(length.map_err(|_| "a content-length that is no number".to_owned())?)
            }
            None => Body::UntilClose,
        };
        Ok(Some(Self { status, length, body }))
    }
}

impl Body {
    /// Whether nothing more is to come.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_whole(),
            Self::UntilClose => false,
        }
    }

    /// Whether the end of the connection is a fitting end here.
    #[must_use]
    pub fn may_close(&self) -> bool {
        self.is_whole() || *self == Self::UntilClose
    }

    /// Takes what has come; the body's own bytes are handed on.
    ///
    /// # Errors
    /// More than the body, or something else than chunks.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        match self {
            Self::Length(left) => {
                let length = bytes.len() as u64;
                *left = left.checked_sub(length).ok_or("more bytes than the content-length says")?;
                sink(bytes);
                Ok(())
            }
            Self::Chunked(chunks) => chunks.feed(bytes, sink),
            Self::UntilClose => {
                sink(bytes);
                Ok(())
            }
        }
    }
}

/// A body in chunks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    /// What has come of a line.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the line of a chunk's size.
    #[default]
    Size,
    /// In a chunk, or in the line end behind it.
    Data(u64),
    DataEnd,
    /// In the lines behind the last chunk.
    Trailer,
    End,
}

impl Chunks {
    fn is_whole(&self) -> bool {
        self.state == State::End
    }

    fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        while !bytes.is_empty() {
            if let State::Data(left) = self.state {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let (data, rest) = bytes.split_at(length);
                sink(data);
                bytes = rest;
                let left = left - length as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            self.line.extend_from_slice(line);
            bytes = rest;
            if self.line.len() > 8192 {
                return Err("a line of 8 KiB among chunks".to_owned());
            }
            if end.is_some() {
                self.take_line()?;
            }
        }
        Ok(())
    }

    fn take_line(&mut self) -> Result<(), String> {
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        self.state = match (self.state, line.as_str()) {
            (State::Size, line) => {
                let digits = line.split(';').next().unwrap_or_default().trim();
                match u64::from_str_radix(digits, 16).map_err(|_| format!("chunk size {line:?}"))? {
                    0 => State::Trailer,
                    length => State::Data(length),
                }
            }
            (State::DataEnd, "") => State::Size,
            (State::Trailer, "") => State::End,
            (State::Trailer, _) => State::Trailer,
            (_, line) => return Err(format!("{line:?} among chunks")),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a response in pieces of so many bytes.
    fn read(response: &[u8], piece: usize) -> Result<(u16, Vec<u8>, bool), String> {
        let head = (0..=response.len()).find_map(|end| Head::read(&response[..end]).transpose());
        let mut head = head.ok_or("no head")??;
        let mut body = Vec::new();
        for bytes in response[head.length..].chunks(piece) {
            head.body.feed(bytes, &mut |data| body.extend_from_slice(data))?;
        }
        Ok((head.status, body, head.body.is_whole()))
    }

    #[test]
    fn bodies_are_told_by_length_chunks_and_close_whatever_pieces_they_come_in() {
        let by_length = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef".as_slice();
        let by_chunks =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x\r\nab\r\n4\r\ncdef\r\n0\r\nT: 1\r\n\r\n";
        let by_close = b"HTTP/1.1 404 No\r\n\r\nabcdef";
        for piece in 1..20 {
            assert_eq!(read(by_length, piece).unwrap(), (200, b"abcdef".to_vec(), true));
            assert_eq!(read(by_chunks, piece).unwrap(), (200, b"abcdef".to_vec(), true));
            assert_eq!(read(by_close, piece).unwrap(), (404, b"abcdef".to_vec(), false));
        }
        for cut in 1..6 {
            assert!(!read(&by_length[..by_length.len() - cut], 3).unwrap().2);
            assert!(!read(&by_chunks[..by_chunks.len() - cut], 3).unwrap().2);
        }
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for bytes in [
            &b"HELLO\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore\r\n",
        ] {
            assert!(read(bytes, 100).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
