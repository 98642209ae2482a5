//! A TCP proxy that does to connections what networks do to them: it cuts, stalls, delays, throttles, splits and spoils.
//!
//! Each way of a connection has a thread that copies it. What is done wrong is said with [`Proxy::set`], at any moment,
//! for the connections that are open and those to come.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::wait::pause;

/// How long the proxy's own connections may take; its targets are on this machine.
const CONNECT: Duration = Duration::from_secs(10);

/// What is done to the bytes that go one way. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Nothing is passed on. What comes in is not read either, once the buffers are full.
    pub stalled: bool,
    /// Each piece waits so long.
    pub delay: Duration,
    /// Bytes a second at the most.
    pub rate: Option<u32>,
    /// Bytes at the most that are passed on at once.
    pub piece: Option<usize>,
    /// The byte that comes after so many more, on whichever connection, is passed on with a bit turned over; then no more.
    pub spoil_after: Option<u64>,
    /// All connections are cut after so many more bytes, on whichever they come; then no more.
    pub cut_after: Option<u64>,
}

/// What is done to both ways.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// New connections are closed at once.
    pub refuse: bool,
    /// From the one who connects to the target.
    pub up: Way,
    /// From the target to the one who connects.
    pub down: Way,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Up,
    Down,
}

/// A running proxy. Dropping it cuts all connections.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    /// Told of every change of the state.
    changed: Condvar,
    up: AtomicU64,
    down: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    rules: Rules,
    open: Vec<TcpStream>,
    over: bool,
}

impl Proxy {
    /// A proxy on a free port of loopback that passes everything on.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            target,
            state: Mutex::default(),
            changed: Condvar::new(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.lock().over {
                    return;
                }
                accepting.join(client);
            }
        });
        Self { address, shared }
    }

    /// Does this from now on, and nothing else.
    pub fn set(&self, rules: Rules) {
        self.shared.lock().rules = rules;
        self.shared.changed.notify_all();
    }

    /// Cuts all connections there are.
    pub fn cut(&self) {
        self.shared.cut(&mut self.shared.lock());
    }

    /// Bytes passed on so far: up, down.
    #[must_use]
    pub fn passed(&self) -> (u64, u64) {
        (self.shared.up.load(Ordering::Relaxed), self.shared.down.load(Ordering::Relaxed))
    }

    /// Whether a byte that was to be spoiled, or a cut, is still to come.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        let Rules { up, down, .. } = self.shared.lock().rules;
        [up, down].iter().any(|way| way.spoil_after.is_some() || way.cut_after.is_some())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        self.shared.cut(&mut state);
        drop(state);
        self.shared.changed.notify_all();
        // So that the listener sees that it is over.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, state: &mut State) {
        for stream in state.open.drain(..) {
            // One that is closed already is cut as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Connects to the target and copies both ways, on threads of their own.
    fn join(self: &Arc<Self>, client: TcpStream) {
        let Ok(target) = TcpStream::connect_timeout(&self.target, CONNECT) else { return };
        let (Ok(client_too), Ok(target_too)) = (client.try_clone(), target.try_clone()) else { return };
        let keep = [client.try_clone(), target.try_clone()].into_iter().flatten();
        for stream in [&client, &target] {
            // Without it small pieces would wait for each other.
            let _ = stream.set_nodelay(true);
        }
        {
            let mut state = self.lock();
            if state.rules.refuse || state.over {
                return;
            }
            state.open.retain(|stream| stream.peer_addr().is_ok());
            state.open.extend(keep);
        }
        for (from, to, side) in [(client, target, Side::Up), (target_too, client_too, Side::Down)] {
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.copy(from, to, side));
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, side: Side) {
        let mut bytes = vec![0; 16 << 10];
        while self.until_flowing(side).is_some() {
            let Ok(length @ 1..) = from.read(&mut bytes) else { break };
            if self.pass_on(&mut bytes[..length], &mut to, side).is_none() {
                break;
            }
        }
        // The end is passed on, as a whole: no protocol here uses one way alone.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Passes bytes on by the rules of each moment; `None` if the connection is over.
    fn pass_on(&self, mut rest: &mut [u8], to: &mut TcpStream, side: Side) -> Option<()> {
        while !rest.is_empty() {
            let way = self.until_flowing(side)?;
            let (piece, behind) = rest.split_at_mut(way.piece.unwrap_or(rest.len()).clamp(1, rest.len()));
            rest = behind;
            pause(way.delay);
            let length = self.spoil(piece, side);
            to.write_all(&piece[..length]).ok()?;
            if length < piece.len() {
                self.cut(&mut self.lock());
                return None;
            }
            match side {
                Side::Up => self.up.fetch_add(length as u64, Ordering::Relaxed),
                Side::Down => self.down.fetch_add(length as u64, Ordering::Relaxed),
            };
            if let Some(rate) = way.rate {
                pause(Duration::from_secs_f64(length as f64 / f64::from(rate.max(1))));
            }
        }
        Some(())
    }

    /// What to do with the next bytes, once any may pass; `None` when the proxy is gone.
    fn until_flowing(&self, side: Side) -> Option<Way> {
        let mut state = self.lock();
        loop {
            if state.over {
                return None;
            }
            let way = *state.rules.way(side);
            if !way.stalled {
                return Some(way);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Turns over a bit if its turn has come, and says how many bytes are passed on.
    fn spoil(&self, piece: &mut [u8], side: Side) -> usize {
        let mut state = self.lock();
        let way = state.rules.way(side);
        let length = piece.len() as u64;
        let mut pass = piece.len();
        if let Some(left) = way.spoil_after {
            let at = usize::try_from(left).ok().and_then(|at| piece.get_mut(at));
            way.spoil_after = match at {
                Some(byte) => {
                    *byte ^= 0x40;
                    None
                }
                None => Some(left - length),
            };
        }
        if let Some(left) = way.cut_after {
            match usize::try_from(left) {
                Ok(left) if left < pass => {
                    pass = left;
                    way.cut_after = None;
                }
                _ => way.cut_after = Some(left - length),
            }
        }
        pass
    }
}

impl Rules {
    fn way(&mut self, side: Side) -> &mut Way {
        match side {
            Side::Up => &mut self.up,
            Side::Down => &mut self.down,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A server that sends back what it gets, and a proxy to it.
    fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut back = stream.try_clone().unwrap();
                    std::io::copy(&mut stream, &mut back)
                });
            }
        });
        proxy
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn say(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
        stream.write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).unwrap();
        back
    }

    #[test]
    fn it_passes_on_splits_delays_and_throttles() {
        let proxy = echo();
        let mut stream = connect(&proxy);
        assert_eq!(say(&mut stream, b"hello"), b"hello");
        let slow = Way { delay: Duration::from_millis(5), piece: Some(1), ..Way::default() };
        proxy.set(Rules { down: slow, ..Rules::default() });
        let begun = Instant::now();
        assert_eq!(say(&mut stream, &[7; 40]), [7; 40]);
        assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
        proxy.set(Rules { up: Way { rate: Some(1000), ..Way::default() }, ..Rules::default() });
        let begun = Instant::now();
        assert_eq!(say(&mut stream, &[7; 150]), [7; 150]);
        assert_eq!(say(&mut stream, &[7; 150]), [7; 150]);
        assert!(begun.elapsed() >= Duration::from_millis(140), "{:?}", begun.elapsed());
    }

    #[test]
    fn it_spoils_one_byte_and_cuts_at_a_byte() {
        let proxy = echo();
        let mut stream = connect(&proxy);
        proxy.set(Rules { down: Way { spoil_after: Some(7), ..Way::default() }, ..Rules::default() });
        assert_eq!(say(&mut stream, b"01234"), b"01234");
        assert!(proxy.is_pending());
        assert_eq!(say(&mut stream, b"56789"), b"56w89");
        assert!(!proxy.is_pending());
        proxy.set(Rules { up: Way { cut_after: Some(3), ..Way::default() }, ..Rules::default() });
        stream.write_all(b"abcde").unwrap();
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back);
        assert!(b"abc".starts_with(&back), "{back:?}");
        assert_eq!(say(&mut connect(&proxy), b"again"), b"again");
    }

    #[test]
    fn it_stalls_until_told_otherwise_and_refuses() {
        let proxy = echo();
        let mut stream = connect(&proxy);
        proxy.set(Rules { down: Way { stalled: true, ..Way::default() }, ..Rules::default() });
        stream.write_all(b"x").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(stream.read(&mut [0]).is_err());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        proxy.set(Rules { refuse: true, ..Rules::default() });
        stream.read_exact(&mut [0]).unwrap();
        assert!(matches!(connect(&proxy).read(&mut [0]), Ok(0) | Err(_)));
        proxy.cut();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
}
