//! A process that may open no more descriptors; alone in its file, because the limit holds for the whole process.

use std::fs::File;

use mp_core::Error;
use mp_core::connection::pipe;
use mp_core::handle::Handle;
use mp_core::message::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn descriptors_that_find_no_room_are_an_error_and_the_stream_goes_on() {
    let (a, b) = pipe().unwrap();
    let files: Vec<_> = (0..40).map(|_| Handle(File::open("/dev/null").unwrap())).collect();
    let message = Message::encode(&("files", files)).unwrap();
    a.send_message(message).unwrap();
    a.send(&"next").unwrap();

    let before = getrlimit(Resource::Nofile);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 10), ..before }).unwrap();
    let received = b.recv_message();
    setrlimit(Resource::Nofile, before).unwrap();

    let error = received.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error}");
    assert!(error.to_string().contains("of its 40 descriptors could be received"), "{error}");
    assert_eq!(b.recv::<String>().unwrap(), "next");
    let still_open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    assert_eq!(still_open, open);
}
