//! One way of bytes between two processes: a publisher, a subscriber, and events if whoever receives sleeps.

use std::hint::spin_loop;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{BackpressureStrategy, SemanticString, SignalHandlingMode, ipc};
use iceoryx2::service::port_factory::{event, publish_subscribe};

/// What travels.
pub type Bytes = Vec<u8>;

/// How a receiver waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Busy,
    Event,
}

impl Wait {
    pub fn name(self) -> &'static str {
        match self {
            Wait::Busy => "busy",
            Wait::Event => "event",
        }
    }

    pub fn named(name: &str) -> Result<Wait> {
        match name {
            "busy" => Ok(Wait::Busy),
            "event" => Ok(Wait::Event),
            _ => bail!("busy or event, not {name}"),
        }
    }
}

/// The services of one way.
pub struct Link {
    messages: publish_subscribe::PortFactory<ipc::Service, [u8], ()>,
    events: event::PortFactory<ipc::Service>,
    size: usize,
    wait: Wait,
    _node: Node<ipc::Service>,
}

/// One end of it.
pub enum Way {
    Send(Publisher<ipc::Service, [u8], ()>, Option<Notifier<ipc::Service>>),
    Receive(Subscriber<ipc::Service, [u8], ()>, Option<Listener<ipc::Service>>),
}

impl Link {
    pub fn create(root: &Path, name: &str, size: usize, bound: usize, wait: Wait) -> Result<Link> {
        Link::make(root, name, size, bound, wait, true)
    }

    pub fn open(root: &Path, name: &str, size: usize, bound: usize, wait: Wait) -> Result<Link> {
        Link::make(root, name, size, bound, wait, false)
    }

    fn make(root: &Path, name: &str, size: usize, bound: usize, wait: Wait, create: bool) -> Result<Link> {
        let mut config = Config::default();
        config.global.set_root_path(&iceoryx2::prelude::Path::new(root.as_os_str().as_encoded_bytes())?);
        let name_of_files = root.file_name().unwrap_or_default().as_encoded_bytes();
        config.global.prefix = iceoryx2::prelude::FileName::new(name_of_files)?;
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()?;
        let messages = node
            .service_builder(&name.try_into()?)
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .history_size(0)
            .subscriber_max_buffer_size(bound)
            .subscriber_max_borrowed_samples(2)
            .max_publishers(1)
            .max_subscribers(1);
        let events = node.service_builder(&name.try_into()?).event();
        let (messages, events) = match create {
            true => (messages.create()?, events.create()?),
            false => (messages.open()?, events.open()?),
        };
        Ok(Link { messages, events, size, wait, _node: node })
    }

    pub fn sender(&self) -> Result<Way> {
        let publisher = self
            .messages
            .publisher_builder()
            .initial_max_slice_len(self.size)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let notifier = match self.wait {
            Wait::Busy => None,
            Wait::Event => Some(self.events.notifier_builder().create()?),
        };
        Ok(Way::Send(publisher, notifier))
    }

    pub fn receiver(&self) -> Result<Way> {
        let subscriber = self.messages.subscriber_builder().create()?;
        let listener = match self.wait {
            Wait::Busy => None,
            Wait::Event => Some(self.events.listener_builder().create()?),
        };
        Ok(Way::Receive(subscriber, listener))
    }
}

impl Way {
    pub fn send(&self, item: &[u8]) -> Result<()> {
        let Way::Send(publisher, notifier) = self else { bail!("this end receives") };
        let sample = publisher.loan_slice_uninit(item.len())?;
        let receivers = sample.write_from_slice(item).send()?;
        ensure!(receivers == 1, "{receivers} receivers");
        if let Some(notifier) = notifier {
            notifier.notify()?;
        }
        Ok(())
    }

    pub fn receive(&self) -> Result<Bytes> {
        let Way::Receive(subscriber, listener) = self else { bail!("this end sends") };
        let mut looks = 0_u32;
        loop {
            if let Some(sample) = subscriber.receive()? {
                return Ok(sample.payload().to_vec());
            }
            match listener {
                Some(listener) => drop(listener.blocking_wait(|_| {})?),
                None => {
                    looks += 1;
                    spin_loop();
                    if looks.is_multiple_of(4096) {
                        std::thread::yield_now();
                    }
                }
            }
        }
    }
}

/// Sends back what comes.
pub struct Echo {
    asks: Way,
    answers: Way,
    _links: [Link; 2],
}

impl Echo {
    pub fn open(root: &Path, name: &str, wait: Wait) -> Result<Echo> {
        let ask = Link::open(root, &format!("{name} ask"), 64, 64, wait)?;
        let answer = Link::open(root, &format!("{name} answer"), 64, 64, wait)?;
        Ok(Echo { asks: ask.receiver()?, answers: answer.sender()?, _links: [ask, answer] })
    }

    pub fn answer(&self) -> Result<()> {
        self.answers.send(&self.asks.receive()?)
    }
}
