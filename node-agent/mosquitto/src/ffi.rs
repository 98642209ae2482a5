//! Mosquitto's plugin interface, version 5, as `mosquitto_plugin.h` and `mosquitto_broker.h` of 2.0 declare it: the only place
//! with `unsafe`.
//!
//! The broker's functions are looked up in the running process when the plugin is loaded, not by the linker, so that a
//! program that is no broker says which one it lacks. All of them are called in the thread that the broker calls the
//! plugin in, and only while it does: [`Calls`] is made for one callback and borrowed no longer.
//!
//! No panic crosses into C: every callback catches it, says so in the broker's log, and answers as if the plugin were
//! not there.

#![expect(unsafe_code, reason = "this is the boundary to the broker, which is written in C")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libloading::os::unix::Library;
use tracing::Level;

use crate::log::Lines;
use crate::plugin::{Login, Plugin};
use crate::table::{BrokerCalls, Facts, Handle};

/// The version of the interface.
const VERSION: c_int = 5;

const MOSQ_ERR_SUCCESS: c_int = 0;
const MOSQ_ERR_NOT_FOUND: c_int = 6;
const MOSQ_ERR_AUTH: c_int = 11;
const MOSQ_ERR_UNKNOWN: c_int = 13;
const MOSQ_ERR_PLUGIN_DEFER: c_int = 17;

const EVT_BASIC_AUTH: c_int = 3;
const EVT_MESSAGE: c_int = 7;
const EVT_TICK: c_int = 9;
const EVT_DISCONNECT: c_int = 10;

const LOG_INFO: c_int = 1;
const LOG_WARNING: c_int = 4;
const LOG_ERR: c_int = 8;
const LOG_DEBUG: c_int = 16;

/// `struct mosquitto_opt`.
#[repr(C)]
pub(crate) struct Opt {
    key: *const c_char,
    value: *const c_char,
}

/// `struct mosquitto_evt_basic_auth`, as far as it is read.
#[repr(C)]
struct BasicAuth {
    future: *const c_void,
    client: *const c_void,
    username: *const c_char,
    password: *const c_char,
}

/// What `struct mosquitto_evt_message` and `struct mosquitto_evt_disconnect` begin with.
#[repr(C)]
struct OfClient {
    future: *const c_void,
    client: *const c_void,
}

type Callback = unsafe extern "C" fn(c_int, *mut c_void, *mut c_void) -> c_int;
type Register = unsafe extern "C" fn(*mut c_void, c_int, Callback, *const c_void, *mut c_void) -> c_int;
type Unregister = unsafe extern "C" fn(*mut c_void, c_int, Callback, *const c_void) -> c_int;
type TextOfClient = unsafe extern "C" fn(*const c_void) -> *const c_char;
type NumberOfClient = unsafe extern "C" fn(*const c_void) -> c_int;
type FlagOfClient = unsafe extern "C" fn(*const c_void) -> bool;
type Kick = unsafe extern "C" fn(*const c_char, bool) -> c_int;
type Print = unsafe extern "C" fn(c_int, *const c_char, ...);

/// The broker's functions.
#[derive(Clone, Copy)]
struct Api {
    register: Register,
    unregister: Unregister,
    client_id: TextOfClient,
    client_username: TextOfClient,
    client_address: TextOfClient,
    client_keepalive: NumberOfClient,
    client_protocol_version: NumberOfClient,
    client_sub_count: NumberOfClient,
    client_clean_session: FlagOfClient,
    kick: Kick,
    print: Print,
}

impl Api {
    /// Finds all of them in this process, or says which one is missing.
    fn of_this_process() -> Result<Self, &'static str> {
        let process = Library::this();
        /// Looks a function up under its name in C.
        macro_rules! function {
            ($name:literal, $form:ty) => {{
                // SAFETY: the form is that of the declaration in mosquitto_broker.h. The function is the program's own, so
                // that it outlives the library object it is looked up by.
                *unsafe { process.get::<$form>($name) }.map_err(|_| $name)?
            }};
        }
        Ok(Self {
            register: function!("mosquitto_callback_register", Register),
            unregister: function!("mosquitto_callback_unregister", Unregister),
            client_id: function!("mosquitto_client_id", TextOfClient),
            client_username: function!("mosquitto_client_username", TextOfClient),
            client_address: function!("mosquitto_client_address", TextOfClient),
            client_keepalive: function!("mosquitto_client_keepalive", NumberOfClient),
            client_protocol_version: function!("mosquitto_client_protocol_version", NumberOfClient),
            client_sub_count: function!("mosquitto_client_sub_count", NumberOfClient),
            client_clean_session: function!("mosquitto_client_clean_session", FlagOfClient),
            kick: function!("mosquitto_kick_client_by_clientid", Kick),
            print: function!("mosquitto_log_printf", Print),
        })
    }

    /// Writes a line into the broker's log.
    fn log(&self, level: c_int, line: &str) {
        let line = CString::new(format!("rollcall: {line}").replace('\0', "\\0")).unwrap_or_default();
        // SAFETY: the form string has one place for a string, which is there. The broker's thread calls this.
        unsafe { (self.print)(level, c"%s".as_ptr(), line.as_ptr()) };
    }
}

/// The broker's functions, during one of its calls.
struct Calls<'a>(&'a Api);

impl Calls<'_> {
    fn pointer(client: Handle) -> *const c_void {
        std::ptr::with_exposed_provenance(client.0)
    }

    fn text(&self, function: TextOfClient, client: Handle) -> Option<String> {
        // SAFETY: the table asks only of clients between their login and the event of their end, while which the broker
        // keeps them, and only in a call of the broker's.
        let text = unsafe { function(Self::pointer(client)) };
        // SAFETY: it is null, or a string of the client's that lives until the broker's next step.
        unsafe { text_of(text) }
    }

    fn number(&self, function: NumberOfClient, client: Handle) -> c_int {
        // SAFETY: as in `text`.
        unsafe { function(Self::pointer(client)) }
    }
}

impl BrokerCalls for Calls<'_> {
    fn facts(&self, client: Handle) -> Option<Facts> {
        let clientid = self.text(self.0.client_id, client)?;
        let address = self.text(self.0.client_address, client);
        // SAFETY: as in `text`.
        let clean_start = unsafe { (self.0.client_clean_session)(Self::pointer(client)) };
        Some(Facts {
            clientid,
            username: self.text(self.0.client_username, client),
            address: address.and_then(|address| address.parse::<IpAddr>().ok()),
            protocol: u32::try_from(self.number(self.0.client_protocol_version, client)).ok(),
            keepalive: u32::try_from(self.number(self.0.client_keepalive, client)).ok(),
            clean_start: Some(clean_start),
        })
    }

    fn subscriptions(&self, client: Handle) -> u64 {
        u64::try_from(self.number(self.0.client_sub_count, client)).unwrap_or_default()
    }

    fn kick(&self, clientid: &str) -> bool {
        // MQTT's texts hold no null character, so there is no client with one.
        let Ok(clientid) = CString::new(clientid) else { return false };
        // The will is sent, as for any connection that its client did not end.
        // SAFETY: the string lives through the call, which is made between two steps of the broker's.
        let outcome = unsafe { (self.0.kick)(clientid.as_ptr(), true) };
        outcome != MOSQ_ERR_NOT_FOUND
    }
}

/// A string of the broker's.
///
/// # Safety
/// It is null, or a string that ends with a null character and stays as it is during the call.
unsafe fn text_of(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: it is not null, the rest is the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

/// What the broker keeps for the plugin.
struct Loaded {
    api: Api,
    plugin: Plugin,
    /// The broker's name for the plugin.
    identifier: *mut c_void,
}

const EVENTS: [(c_int, Callback); 4] = [
    (EVT_BASIC_AUTH, on_login),
    (EVT_MESSAGE, on_message),
    (EVT_TICK, on_tick),
    (EVT_DISCONNECT, on_disconnect),
];

/// The version of the interface that the plugin speaks, or -1.
///
/// # Safety
/// `versions` has `count` entries.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mosquitto_plugin_version(count: c_int, versions: *const c_int) -> c_int {
    let Some(count) = usize::try_from(count).ok().filter(|_| !versions.is_null()) else { return -1 };
    // SAFETY: the caller's word.
    let versions = unsafe { std::slice::from_raw_parts(versions, count) };
    if versions.contains(&VERSION) { VERSION } else { -1 }
}

/// Starts the plugin.
///
/// # Safety
/// Called once by the broker, with `option_count` options and a place for the plugin's own pointer.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mosquitto_plugin_init(
    identifier: *mut c_void,
    userdata: *mut *mut c_void,
    options: *const Opt,
    option_count: c_int,
) -> c_int {
    let api = match Api::of_this_process() {
        Ok(api) => api,
        Err(missing) => {
            eprintln!("rollcall: this program has no function {missing}, expected mosquitto 2.0 or later");
            return MOSQ_ERR_UNKNOWN;
        }
    };
    guarded(&api, "init", MOSQ_ERR_UNKNOWN, || {
        // SAFETY: the caller's word.
        let options = unsafe { read_options(options, option_count) };
        let plugin = match Plugin::start(&options, Lines::default()) {
            Ok(plugin) => plugin,
            Err(error) => {
                api.log(LOG_ERR, &error.to_string());
                return MOSQ_ERR_UNKNOWN;
            }
        };
        let loaded = Box::into_raw(Box::new(Loaded { api, plugin, identifier }));
        // SAFETY: the caller's word: the broker keeps this and gives it back in every call.
        unsafe { *userdata = loaded.cast() };
        for (event, callback) in EVENTS {
            // SAFETY: the callback has the form the broker calls, and what it gets lives until the plugin is cleaned up.
            let outcome =
                unsafe { (api.register)(identifier, event, callback, std::ptr::null(), loaded.cast()) };
            if outcome != MOSQ_ERR_SUCCESS {
                api.log(LOG_ERR, &format!("the broker refuses event {event}: error {outcome}"));
                return outcome;
            }
        }
        MOSQ_ERR_SUCCESS
    })
}

/// Ends the plugin.
///
/// # Safety
/// Called once by the broker, with the pointer that the plugin gave it; no call comes after it.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mosquitto_plugin_cleanup(
    userdata: *mut c_void,
    _options: *const Opt,
    _option_count: c_int,
) -> c_int {
    if userdata.is_null() {
        return MOSQ_ERR_SUCCESS;
    }
    // SAFETY: made by `mosquitto_plugin_init`, given up by the broker.
    let loaded = unsafe { Box::from_raw(userdata.cast::<Loaded>()) };
    guarded(&loaded.api, "cleanup", MOSQ_ERR_SUCCESS, || {
        for (event, callback) in EVENTS {
            // Of one that was refused the broker says that there is none.
            // SAFETY: as when it was registered.
            unsafe { (loaded.api.unregister)(loaded.identifier, event, callback, std::ptr::null()) };
        }
        loaded.plugin.end();
        write_log(&loaded);
        MOSQ_ERR_SUCCESS
    })
}

/// # Safety
/// `options` has `count` entries, each with two strings or null.
unsafe fn read_options(options: *const Opt, count: c_int) -> Vec<(String, String)> {
    let Some(count) = usize::try_from(count).ok().filter(|_| !options.is_null()) else { return Vec::new() };
    // SAFETY: the caller's word.
    let options = unsafe { std::slice::from_raw_parts(options, count) };
    let mut read = Vec::new();
    for option in options {
        // SAFETY: the caller's word.
        let key = unsafe { text_of(option.key) };
        // SAFETY: the caller's word.
        let value = unsafe { text_of(option.value) };
        read.extend(key.map(|key| (key, value.unwrap_or_default())));
    }
    read
}

unsafe extern "C" fn on_login(_event: c_int, data: *mut c_void, userdata: *mut c_void) -> c_int {
    // SAFETY: the broker gives what was registered, and an event of the kind it was registered for.
    let loaded = unsafe { &*userdata.cast::<Loaded>() };
    // SAFETY: as above.
    let event = unsafe { &*data.cast::<BasicAuth>() };
    guarded(&loaded.api, "login", MOSQ_ERR_PLUGIN_DEFER, || {
        let calls = Calls(&loaded.api);
        let handle = Handle(event.client.expose_provenance());
        let facts = calls.facts(handle);
        let password = if event.password.is_null() {
            None
        } else {
            // SAFETY: it is not null, and the broker's strings end with a null character.
            Some(unsafe { CStr::from_ptr(event.password) }.to_bytes())
        };
        match loaded.plugin.login(handle, facts, password) {
            Login::Allow => MOSQ_ERR_SUCCESS,
            Login::Refuse => MOSQ_ERR_AUTH,
            Login::Defer => MOSQ_ERR_PLUGIN_DEFER,
        }
    })
}

unsafe extern "C" fn on_message(_event: c_int, data: *mut c_void, userdata: *mut c_void) -> c_int {
    // SAFETY: as in `on_login`.
    let loaded = unsafe { &*userdata.cast::<Loaded>() };
    // SAFETY: as in `on_login`.
    let event = unsafe { &*data.cast::<OfClient>() };
    guarded(&loaded.api, "message", MOSQ_ERR_SUCCESS, || {
        loaded.plugin.message(Handle(event.client.expose_provenance()), &Calls(&loaded.api));
        MOSQ_ERR_SUCCESS
    })
}

unsafe extern "C" fn on_disconnect(_event: c_int, data: *mut c_void, userdata: *mut c_void) -> c_int {
    // SAFETY: as in `on_login`.
    let loaded = unsafe { &*userdata.cast::<Loaded>() };
    // SAFETY: as in `on_login`.
    let event = unsafe { &*data.cast::<OfClient>() };
    guarded(&loaded.api, "disconnect", MOSQ_ERR_SUCCESS, || {
        loaded.plugin.disconnected(Handle(event.client.expose_provenance()), &Calls(&loaded.api));
        MOSQ_ERR_SUCCESS
    })
}

unsafe extern "C" fn on_tick(_event: c_int, _data: *mut c_void, userdata: *mut c_void) -> c_int {
    // SAFETY: as in `on_login`.
    let loaded = unsafe { &*userdata.cast::<Loaded>() };
    guarded(&loaded.api, "tick", MOSQ_ERR_SUCCESS, || {
        if loaded.plugin.tick(&Calls(&loaded.api)) {
            write_log(loaded);
        }
        MOSQ_ERR_SUCCESS
    })
}

fn write_log(loaded: &Loaded) {
    loaded.plugin.write_log(|level, line| {
        let level = match level {
            Level::ERROR => LOG_ERR,
            Level::WARN => LOG_WARNING,
            Level::INFO => LOG_INFO,
            _ => LOG_DEBUG,
        };
        loaded.api.log(level, line);
    });
}

/// Does it, or says in the broker's log that it panicked in this call and gives the answer instead.
fn guarded(api: &Api, call: &'static str, answer: c_int, work: impl FnOnce() -> c_int) -> c_int {
    let work = || {
        #[cfg(debug_assertions)]
        planted::panic_once(call);
        work()
    };
    // Nothing that a panic may leave half done is read afterwards but the table, whose lock says why that does no harm.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        api.log(
            LOG_ERR,
            &format!("a defect of the plugin in its {call}, the broker goes on without this call"),
        );
        answer
    })
}

/// Defects for the tests, which cannot find any: in builds with debug assertions the first call of every kind that
/// `ROLLCALL_MOSQUITTO_PANICS` names panics.
#[cfg(debug_assertions)]
mod planted {
    use std::sync::{LazyLock, Mutex, PoisonError};

    static CALLS: LazyLock<Mutex<Vec<String>>> = LazyLock::new(|| {
        let named = std::env::var_os("ROLLCALL_MOSQUITTO_PANICS").unwrap_or_default();
        Mutex::new(named.to_string_lossy().split(',').map(str::to_owned).collect())
    });

    pub(super) fn panic_once(call: &str) {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = calls.iter().position(|named| named == call) {
            calls.remove(at);
            panic!("planted in {call}");
        }
    }
}
