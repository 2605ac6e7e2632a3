use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bson::oid::ObjectId;

use super::suspicion::Suspicion;
use crate::sync::lock;

/// The generations of one pool. A connection that was made before the last clear is stale.
///
/// Behind a load balancer each service also has its own generation, because one address stands for
/// many servers.
///
/// Specifications: connection monitoring and pooling, load balancers.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    all: Arc<AtomicU64>,
    services: Mutex<Services>,
    /// Shared by all connections.
    suspicion: Arc<Suspicion>,
}

#[derive(Debug, Default)]
struct Services {
    /// Only services that have a connection, so that a load balancer that invents service ids can't
    /// fill the map.
    current: HashMap<ObjectId, Weak<AtomicU64>>,
    /// How often any service was cleared. A service begins with this number, so that its generation
    /// never decreases after its entry was removed.
    clears: u64,
}

impl Generations {
    /// The generation of the whole pool.
    pub(crate) fn current(&self) -> u64 {
        self.all.load(Ordering::Acquire)
    }

    /// Makes all connections stale, and returns the generation that this ends.
    pub(crate) fn clear(&self) -> u64 {
        self.all.fetch_add(1, Ordering::AcqRel)
    }

    /// Makes the connections to one service stale.
    pub(crate) fn clear_service(&self, id: ObjectId) {
        let mut services = self.services();
        services.clears += 1;
        if let Some(current) = services.current.get(&id).and_then(Weak::upgrade) {
            current.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The generation of a connection that is about to be made. If the pool is cleared before that,
    /// the connection is stale from the start.
    pub(crate) fn begin(&self) -> Generation {
        Generation {
            all: Stamp::of(self.all.clone()),
            service: None,
            suspicion: self.suspicion.clone(),
        }
    }

    /// Adds the generation of a service, once the connection is known to lead to it.
    pub(crate) fn join(&self, generation: &mut Generation, service: ObjectId) {
        let mut services = self.services();
        let known = services.current.get(&service).and_then(Weak::upgrade);
        let current = known.unwrap_or_else(|| {
            let begun = Arc::new(AtomicU64::new(services.clears));
            services.current.retain(|_, other| other.strong_count() > 0);
            services.current.insert(service, Arc::downgrade(&begun));
            begun
        });
        generation.service = Some(Stamp::of(current));
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        lock(&self.services)
    }
}

/// A connection's generation, fixed once it is made.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    all: Stamp,
    service: Option<Stamp>,
    suspicion: Arc<Suspicion>,
}

#[derive(Clone, Debug)]
struct Stamp {
    made_in: u64,
    current: Arc<AtomicU64>,
}

impl Generation {
    /// The service's generation if there is one, else the pool's.
    pub(crate) fn number(&self) -> u64 {
        self.service.as_ref().unwrap_or(&self.all).made_in
    }

    /// The number of a connection that is made now.
    pub(crate) fn current(&self) -> u64 {
        let stamp = self.service.as_ref().unwrap_or(&self.all);
        stamp.current.load(Ordering::Acquire)
    }

    /// What is known about idle connections of the same pool.
    #[inline]
    pub(crate) fn suspicion(&self) -> &Suspicion {
        &self.suspicion
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.all.is_stale() || self.service.as_ref().is_some_and(Stamp::is_stale)
    }
}

impl Stamp {
    fn of(current: Arc<AtomicU64>) -> Self {
        Self {
            made_in: current.load(Ordering::Acquire),
            current,
        }
    }

    fn is_stale(&self) -> bool {
        self.made_in != self.current.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(generations: &Generations, service: ObjectId) -> Generation {
        let mut generation = generations.begin();
        generations.join(&mut generation, service);
        generation
    }

    #[test]
    fn a_service_is_cleared_alone() {
        let generations = Generations::default();
        let (one, other) = (ObjectId::new(), ObjectId::new());
        let (first, second) = (made(&generations, one), made(&generations, other));
        generations.clear_service(one);
        assert!(first.is_stale() && !second.is_stale());
        let later = made(&generations, one);
        assert!(!later.is_stale());
        assert_eq!((first.number(), later.number()), (0, 1));
        assert_eq!(generations.current(), 0);
    }

    #[test]
    fn all_are_cleared_together() {
        let generations = Generations::default();
        let plain = generations.begin();
        let of_service = made(&generations, ObjectId::new());
        generations.clear();
        assert!(plain.is_stale() && of_service.is_stale());
        assert!(!generations.begin().is_stale());
        assert_eq!(generations.begin().number(), 1);
    }

    #[test]
    fn a_clear_makes_pending_connections_stale() {
        let generations = Generations::default();
        let mut generation = generations.begin();
        generations.clear();
        generations.join(&mut generation, ObjectId::new());
        assert!(generation.is_stale());
    }

    #[test]
    fn services_without_connections_are_forgotten_and_do_not_go_back() {
        let generations = Generations::default();
        let service = ObjectId::new();
        let first = made(&generations, service);
        generations.clear_service(service);
        drop(first);
        for _ in 0..1000 {
            made(&generations, ObjectId::new());
        }
        assert_eq!(generations.services().current.len(), 1);
        assert_eq!(made(&generations, service).number(), 1);
    }
}
