# SPDX-License-Identifier: Apache-2.0
"""rclpy's Node: publishers, subscriptions, services, clients, timers, parameters, names, and what it knows of the graph."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from longscape_ros.embedded.arguments import Arguments, parse_arguments
from longscape_ros.embedded.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from longscape_ros.embedded.clock import Clock, ROSClock
from longscape_ros.embedded.context import Context, get_default_context
from longscape_ros.embedded.endpoint_info import TopicEndpointInfo, TopicEndpointTypeEnum, endpoint_info
from longscape_ros.embedded.endpoints import Publisher, Subscription
from longscape_ros.embedded.events import PublisherEventCallbacks, SubscriptionEventCallbacks
from longscape_ros.embedded.exceptions import (
    InvalidHandle,
    NotInitializedException,
)
from longscape_ros.embedded.logger_service import LoggingService
from longscape_ros.embedded.logging import RcutilsLogger, add_sink, get_logger, remove_sink
from longscape_ros.embedded.messages import Message, ServiceType, message_class
from longscape_ros.embedded.names import (
    expand_topic_name,
    expand_valid_name,
    full_name,
    remap_name,
    remap_node,
    resolve_name,
    validate_full_topic_name,
    validate_namespace,
    validate_node_name,
)
from longscape_ros.embedded.parameter_service import ParameterService
from longscape_ros.embedded.parameters import PARAMETER_SEPARATOR_STRING, Parameter, ParameterStore, ParameterType
from longscape_ros.embedded.qos import (
    QoSProfile,
    qos_profile_parameter_events,
    qos_profile_rosout_default,
    qos_profile_services_default,
)
from longscape_ros.embedded.qos_overriding import QoSOverridingOptions, declare_qos_overrides
from longscape_ros.embedded.rosout import ROSOUT_TOPIC, ROSOUT_TYPE, rosout_sink
from longscape_ros.embedded.services import Client, Service
from longscape_ros.embedded.time import NANOSECONDS
from longscape_ros.embedded.time_source import TimeSource
from longscape_ros.embedded.timer import GuardCondition, Rate, Timer
from longscape_ros.embedded.type_description_service import TypeDescriptionService

_FIND_NODE_EVERY_S = 0.05
_ParametersCallback = Callable[[list[Parameter]], Any]


class Node:
    """A node in the graph of its context; destroy_node() takes it out again.

    Args:
        node_name: Its name, unless a `__node:=` rule changes it.
        context: The default context if None.
        cli_args: ROS arguments for this node alone; they come before those of the process.
        namespace: "/" if None, unless a `__ns:=` rule changes it.
        use_global_arguments: Whether the process's ROS arguments apply.
        enable_rosout: Whether what it logs is published on /rosout.
        start_parameter_services: Whether others can get and set its parameters by ~/get_parameters and its kind.
        parameter_overrides: Values that go before those of arguments and parameter files.
        allow_undeclared_parameters: Whether parameters can be set that were not declared.
        automatically_declare_parameters_from_overrides: Whether every override becomes a parameter.
        enable_logger_service: Whether others can set the levels of this process's loggers by ~/set_logger_levels.

    Raises:
        NotInitializedException: The context is not initialized, or has been shut down.
        InvalidNodeNameException, InvalidNamespaceException: A name breaks ROS's rules.
    """

    PARAM_REL_TOL = 1e-6

    def __init__(
        self,
        node_name: str,
        *,
        context: Context | None = None,
        cli_args: list[str] | None = None,
        namespace: str | None = None,
        use_global_arguments: bool = True,
        enable_rosout: bool = True,
        start_parameter_services: bool = True,
        parameter_overrides: list[Parameter] | None = None,
        allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False,
        enable_logger_service: bool = False,
    ) -> None:
        self._context = context or get_default_context()
        if not self._context.ok():
            raise NotInitializedException("cannot create node")
        arguments = [parse_arguments(cli_args)] if cli_args else []
        if use_global_arguments:
            arguments.append(self._context.arguments)
        self._remaps = [rule for source in arguments for rule in source.remaps]
        self._name, self._namespace = _names(node_name, namespace, self._remaps)
        self._alive = True
        self._executor_reference: Callable[[], Any] = lambda: None
        self._publishers: list[Publisher] = []
        self._inner_publishers: list[Publisher] = []
        self._subscriptions: list[Subscription] = []
        self._clients: list[Client] = []
        self._services: list[Service] = []
        self._timers: list[Timer] = []
        self._guards: list[GuardCondition] = []
        self._default_callback_group = MutuallyExclusiveCallbackGroup()
        self._rate_group = ReentrantCallbackGroup()
        self._logger = get_logger(full_name(self._namespace, self._name)[1:].replace("/", "."))
        self._clock = ROSClock()
        overrides = _overrides(arguments, full_name(self._namespace, self._name), parameter_overrides or [])
        self._parameters = ParameterStore(overrides, allow_undeclared_parameters, self._on_parameters_changed)
        self._parameter_events: Publisher | None = None
        self._graph = self._context.graph
        self._graph.add_node(self, self._name, self._namespace)
        self._context.track(self)
        rosout = enable_rosout and all(source.rosout for source in arguments)
        try:
            with self._graph.announced_at_once():
                self._start(rosout, automatically_declare_parameters_from_overrides)
                if start_parameter_services:
                    ParameterService(self)
                if enable_logger_service:
                    LoggingService(self)
                TypeDescriptionService(self)
        except BaseException:
            self.destroy_node()
            raise

    def _start(self, rosout: bool, declare_overrides: bool) -> None:
        """What every node has beside what it asks for: /rosout, /parameter_events, the time source."""
        if rosout:
            publisher = self.create_inner_publisher(message_class(ROSOUT_TYPE), ROSOUT_TOPIC, qos_profile_rosout_default)
            add_sink(self._logger.name, rosout_sink(publisher))
        events = message_class("rcl_interfaces/msg/ParameterEvent")
        self._parameter_events = self.create_publisher(events, "/parameter_events", qos_profile_parameter_events)
        if declare_overrides:
            descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")
            for name, override in self._parameters.overrides.items():
                self.declare_parameter(name, override.value, descriptor(), ignore_override=True)
        self._time_source = TimeSource(self, self._clock)

    # ------------------------------------------------------------------------------------------------------ what it is

    @property
    def context(self) -> Context:
        """The context it belongs to."""
        return self._context

    @property
    def default_callback_group(self) -> CallbackGroup:
        """The group of callbacks for which none is given: one at a time."""
        return self._default_callback_group

    @property
    def executor(self) -> Any:
        """The executor that runs its callbacks, None if there is none."""
        return self._executor_reference()

    @executor.setter
    def executor(self, new_executor: Any) -> None:
        current = self.executor
        if current is new_executor:
            return
        self._executor_reference = lambda: None
        if current is not None:
            current.remove_node(self)
        if new_executor is not None:
            new_executor.add_node(self)
            self._executor_reference = weakref.ref(new_executor)

    def get_name(self) -> str:
        """The name without the namespace."""
        return self._name

    def get_namespace(self) -> str:
        """The namespace, "/" for none."""
        return self._namespace

    def get_fully_qualified_name(self) -> str:
        """Namespace and name."""
        return full_name(self._namespace, self._name)

    def get_clock(self) -> Clock:
        """The clock: ROS time, which follows /clock while the parameter use_sim_time is true."""
        return self._clock

    def get_logger(self) -> RcutilsLogger:
        """The logger, named after the node."""
        return self._logger

    @property
    def publishers(self) -> Iterator[Publisher]:
        """The publishers; like ROS without those of /rosout and of lifecycle nodes' transitions."""
        return iter(list(self._publishers))

    def every_publisher(self) -> list[Publisher]:
        """The publishers, those too that the node has by itself."""
        return [*self._publishers, *self._inner_publishers]

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """The subscriptions."""
        return iter(list(self._subscriptions))

    @property
    def timers(self) -> Iterator[Timer]:
        """The timers."""
        return iter(list(self._timers))

    @property
    def guards(self) -> Iterator[GuardCondition]:
        """The guard conditions."""
        return iter(list(self._guards))

    @property
    def clients(self) -> Iterator[Client]:
        """The clients."""
        return iter(list(self._clients))

    @property
    def services(self) -> Iterator[Service]:
        """The services."""
        return iter(list(self._services))

    @property
    def waitables(self) -> Iterator[Any]:
        """None: actions, which are made of them, are not offered."""
        return iter(())

    def endpoints(self) -> Iterator[Any]:
        """Everything that DDS may have something for."""
        yield from self.subscriptions
        yield from self.every_publisher()
        yield from self.clients
        yield from self.services

    def entities(self) -> Iterator[Any]:
        """Everything with a callback, in the order in which executors look."""
        yield from self.timers
        yield from self.subscriptions
        yield from self.guards
        yield from self.clients
        yield from self.services
        for endpoint in (*self.subscriptions, *self.every_publisher()):
            yield from endpoint.event_handlers

    # ------------------------------------------------------------------ publishers, subscriptions, services and clients

    def create_publisher(
        self,
        msg_type: Any,
        topic: str,
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        event_callbacks: PublisherEventCallbacks | None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        publisher_class: type[Publisher] = Publisher,
    ) -> Any:
        """A publisher of a topic; an integer QoS is the depth of a reliable one.

        Raises:
            InvalidTopicNameException: The name breaks ROS's rules.
            InvalidHandle: The node has been destroyed.
        """
        name, type_name, profile = self._resolved_endpoint(msg_type, topic, qos_profile)
        if qos_overriding_options is not None:
            profile = declare_qos_overrides(self, "publisher", name, profile, qos_overriding_options)
        group = callback_group or self._default_callback_group
        writer = self._context.participant.create_writer(_dds_name(name, profile), type_name, profile)
        handlers = (event_callbacks or PublisherEventCallbacks()).handlers(writer, group, self._logger, name)
        publisher = publisher_class(writer, self._context, msg_type, name, profile, handlers, group, self._logger)
        self._publishers.append(publisher)
        self._graph.add_endpoints(self, writers=[publisher.gid])
        self._wake_executor(changed=True)
        return publisher

    def create_inner_publisher(self, msg_type: Any, topic: str, qos_profile: QoSProfile | int) -> Publisher:
        """A publisher that the node has by itself and does not show."""
        publisher: Publisher = self.create_publisher(msg_type, topic, qos_profile)
        self._publishers.remove(publisher)
        self._inner_publishers.append(publisher)
        return publisher

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        event_callbacks: SubscriptionEventCallbacks | None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        raw: bool = False,
    ) -> Subscription:
        """A subscription to a topic; the callback takes the message (CDR bytes if raw), and its info if it takes two arguments.

        Raises:
            InvalidTopicNameException: The name breaks ROS's rules.
            InvalidHandle: The node has been destroyed.
        """
        name, type_name, profile = self._resolved_endpoint(msg_type, topic, qos_profile)
        if qos_overriding_options is not None:
            profile = declare_qos_overrides(self, "subscription", name, profile, qos_overriding_options)
        group = callback_group or self._default_callback_group
        reader = self._context.participant.create_reader(_dds_name(name, profile), type_name, profile)
        handlers = (event_callbacks or SubscriptionEventCallbacks()).handlers(reader, group, self._logger, name)
        subscription = Subscription(reader, self._context, msg_type, name, callback, group, profile, raw, handlers)
        group.add_entity(subscription)
        self._subscriptions.append(subscription)
        self._graph.add_endpoints(self, readers=[subscription.gid])
        self._wake_executor(changed=True)
        return subscription

    def _resolved_endpoint(self, msg_type: Any, topic: str, qos_profile: QoSProfile | int) -> tuple[str, str, QoSProfile]:
        self._check_alive()
        if not (isinstance(msg_type, type) and issubclass(msg_type, Message)):
            raise AttributeError(f"Got {msg_type!r}, expected the class of a message, such as std_msgs.msg.String.")
        return self._remapped(topic), msg_type._TYPE_NAME, _profile(qos_profile)

    def destroy_publisher(self, publisher: Publisher) -> bool:
        """Takes a publisher away; False if it is not one of this node's."""
        return self._destroy_endpoint(self._publishers, publisher)

    def destroy_subscription(self, subscription: Subscription) -> bool:
        """Takes a subscription away; False if it is not one of this node's."""
        return self._destroy_endpoint(self._subscriptions, subscription)

    def create_service(
        self,
        srv_type: Any,
        srv_name: str,
        callback: Callable[[Any, Any], Any],
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Service:
        """Answers the requests of a service: the callback takes the request and an empty response, and returns the response.

        Raises:
            InvalidServiceNameException: The name breaks ROS's rules.
            InvalidHandle: The node has been destroyed.
        """
        group = callback_group or self._default_callback_group
        end = self._service_end(srv_type, srv_name, qos_profile, group)
        service = Service(*end, srv_name=srv_name, callback=callback)
        self._add_service_end(self._services, service)
        return service

    def create_client(
        self,
        srv_type: Any,
        srv_name: str,
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Client:
        """A client of a service.

        Raises:
            InvalidServiceNameException: The name breaks ROS's rules.
            InvalidHandle: The node has been destroyed.
        """
        group = callback_group or self._default_callback_group
        end = self._service_end(srv_type, srv_name, qos_profile, group)
        client = Client(*end, srv_name=srv_name, executor=lambda: self.executor)
        self._add_service_end(self._clients, client)
        return client

    def _service_end(self, srv_type: Any, name: str, qos_profile: QoSProfile, group: CallbackGroup) -> tuple[Any, ...]:
        self._check_alive()
        if not (isinstance(srv_type, type) and issubclass(srv_type, ServiceType)):
            raise AttributeError(f"Got {srv_type!r}, expected the class of a service, such as std_srvs.srv.Trigger.")
        resolved = self._remapped(name, is_service=True)
        return self._context.participant, self._context, srv_type, resolved, qos_profile, group, self._logger

    def _add_service_end(self, ends: list[Any], end: Any) -> None:
        end.callback_group.add_entity(end)
        ends.append(end)
        self._graph.add_endpoints(self, readers=[end.gid], writers=[end.writer_gid])
        self._wake_executor(changed=True)

    def destroy_service(self, service: Service) -> bool:
        """Takes a service away; False if it is not one of this node's."""
        return self._destroy_endpoint(self._services, service)

    def destroy_client(self, client: Client) -> bool:
        """Takes a client away; False if it is not one of this node's."""
        return self._destroy_endpoint(self._clients, client)

    def _destroy_endpoint(self, endpoints: list[Any], endpoint: Any) -> bool:
        if endpoint not in endpoints:
            return False
        endpoints.remove(endpoint)
        self._graph.remove_endpoints(self, endpoint.gids)
        endpoint.destroy()
        self._wake_executor(changed=True)
        return True

    # ---------------------------------------------------------------------------------------- timers, rates, conditions

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable[[], Any],
        callback_group: CallbackGroup | None = None,
        clock: Clock | None = None,
        autostart: bool = True,
    ) -> Timer:
        """Calls back at every period of the node's clock, or of another one."""
        self._check_alive()
        group = callback_group or self._default_callback_group
        period_ns = int(float(timer_period_sec) * NANOSECONDS)
        clock = clock or self._clock
        timer = Timer(callback, group, period_ns, clock, context=self._context, autostart=autostart, wake=self._wake_executor)
        group.add_entity(timer)
        self._timers.append(timer)
        self._wake_executor()
        return timer

    def destroy_timer(self, timer: Timer) -> bool:
        """Takes a timer away; False if it is not one of this node's."""
        return _remove(self._timers, timer)

    def create_guard_condition(self, callback: Callable[[], Any], callback_group: CallbackGroup | None = None) -> GuardCondition:
        """Calls back after its trigger() was called, from whatever thread."""
        self._check_alive()
        group = callback_group or self._default_callback_group
        guard = GuardCondition(callback, group, self._context, wake=self._wake_executor)
        group.add_entity(guard)
        self._guards.append(guard)
        return guard

    def destroy_guard_condition(self, guard: GuardCondition) -> bool:
        """Takes a guard condition away; False if it is not one of this node's."""
        return _remove(self._guards, guard)

    def create_rate(self, frequency: float, clock: Clock | None = None) -> Rate:
        """A rate in Hz to sleep by; another thread must spin the node."""
        if frequency <= 0:
            raise ValueError("frequency must be > 0")
        timer = self.create_timer(1.0 / frequency, lambda: None, self._rate_group, clock)
        return Rate(timer, context=self._context)

    def destroy_rate(self, rate: Rate) -> bool:
        """Ends a rate and its sleeps; False if it is not one of this node's."""
        rate.destroy()
        return self.destroy_timer(rate._timer)

    def _wake_executor(self, changed: bool = False) -> None:
        executor = self.executor
        if executor is not None:
            (executor.notify_change if changed else executor.wake)()

    # -------------------------------------------------------------------------------------------------------- parameters

    def declare_parameter(self, name: str, value: Any = None, descriptor: Any = None, ignore_override: bool = False) -> Parameter:
        """Declares a parameter with its default, or with its type alone; an override goes first.

        Raises:
            ParameterAlreadyDeclaredException, InvalidParameterException, InvalidParameterTypeException, InvalidParameterValueException
        """
        entry = (name,) if value is None and descriptor is None else (name, value, descriptor or _descriptor())
        return self.declare_parameters("", [entry], ignore_override)[0]

    def declare_parameters(self, namespace: str, parameters: Sequence[tuple[Any, ...]], ignore_override: bool = False) -> list[Parameter]:
        """Declares (name, default or type, descriptor) tuples below a namespace of parameters."""
        return self._parameters.declare(namespace, parameters, ignore_override)

    def undeclare_parameter(self, name: str) -> None:
        """Forgets a parameter."""
        self._parameters.undeclare(name)

    def has_parameter(self, name: str) -> bool:
        """Whether a parameter is declared."""
        return name in self._parameters.parameters

    def get_parameter(self, name: str) -> Parameter:
        """A parameter.

        Raises:
            ParameterNotDeclaredException: It is undeclared, and this is not allowed.
            ParameterUninitializedException: It has a type but no value yet.
        """
        return self._parameters.get(name)

    def get_parameters(self, names: list[str]) -> list[Parameter]:
        """Several parameters; see get_parameter."""
        if not all(isinstance(name, str) for name in names):
            raise TypeError("All names must be instances of type str")
        return [self.get_parameter(name) for name in names]

    def get_parameter_type(self, name: str) -> ParameterType:
        """The type of a parameter, also of one without a value yet."""
        if self.has_parameter(name):
            return self._parameters.parameters[name].type_
        return self.get_parameter(name).type_

    def get_parameter_types(self, names: list[str]) -> list[ParameterType]:
        """The types of several parameters."""
        return [self.get_parameter_type(name) for name in names]

    def get_parameter_or(self, name: str, alternative_value: Parameter | None = None) -> Parameter:
        """A parameter, or the alternative where it is not set."""
        if self.has_parameter(name):
            return self._parameters.parameters[name]
        return alternative_value or Parameter(name, Parameter.Type.NOT_SET)

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """The parameters below a prefix, by what stands behind it."""
        start = prefix.rstrip(PARAMETER_SEPARATOR_STRING) + PARAMETER_SEPARATOR_STRING if prefix else ""
        parameters = self._parameters.parameters
        return {name.removeprefix(start): parameter for name, parameter in parameters.items() if name.startswith(start)}

    def set_parameters(self, parameter_list: list[Parameter]) -> list[Any]:
        """Sets parameters one by one; a SetParametersResult for each.

        Raises:
            ParameterNotDeclaredException: One is undeclared, and this is not allowed.
        """
        return [self._parameters.set_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> Any:
        """Sets all parameters or none; the SetParametersResult."""
        return self._parameters.set_atomically(parameter_list)

    def describe_parameter(self, name: str) -> Any:
        """The ParameterDescriptor of a parameter."""
        return self._parameters.describe(name)

    def describe_parameters(self, names: list[str]) -> list[Any]:
        """The ParameterDescriptors of several parameters."""
        return [self.describe_parameter(name) for name in names]

    def set_descriptor(self, name: str, descriptor: Any, alternative_value: Any = None) -> Any:
        """Replaces a descriptor; the parameter's value after that, as ParameterValue."""
        alternative = None
        if alternative_value is not None:
            message = message_class("rcl_interfaces/msg/Parameter")(name=name, value=alternative_value)
            alternative = Parameter.from_parameter_msg(message)
        return self._parameters.set_descriptor(name, descriptor, alternative).get_parameter_value()

    def list_parameters(self, prefixes: list[str], depth: int) -> Any:
        """The names below the prefixes, at most `depth` levels deep (0: all), as ListParametersResult.

        Raises:
            TypeError, ValueError: The prefixes are no list of texts, or the depth is no integer from 0 on.
        """
        if not isinstance(prefixes, list) or not all(isinstance(prefix, str) for prefix in prefixes) or not isinstance(depth, int):
            raise TypeError(f"Got the prefixes {prefixes!r} and the depth {depth!r}, expected a list of str and an int")
        if depth < 0:
            raise ValueError(f"Got the depth {depth}, expected none below 0")
        separator = PARAMETER_SEPARATOR_STRING
        result = message_class("rcl_interfaces/msg/ListParametersResult")()
        for name in self._parameters.parameters:
            starts = [prefix for prefix in prefixes if name == prefix or name.startswith(prefix + separator)] if prefixes else [""]
            if any(not depth or name.removeprefix(start).strip(separator).count(separator) < depth for start in starts):
                result.names.append(name)
        result.prefixes = list(dict.fromkeys(name.rpartition(separator)[0] for name in result.names if separator in name))
        return result

    def add_pre_set_parameters_callback(self, callback: Callable[[list[Parameter]], list[Parameter]]) -> None:
        """Calls back before parameters are set; what it returns is set instead."""
        self._parameters.pre_callbacks.insert(0, callback)

    def add_on_set_parameters_callback(self, callback: _ParametersCallback) -> None:
        """Calls back to check parameters; its SetParametersResult decides. The newest callback is asked first."""
        self._parameters.on_set_callbacks.insert(0, callback)

    def add_post_set_parameters_callback(self, callback: Callable[[list[Parameter]], None]) -> None:
        """Calls back after parameters were set."""
        self._parameters.post_callbacks.insert(0, callback)

    def remove_pre_set_parameters_callback(self, callback: Callable[[list[Parameter]], list[Parameter]]) -> None:
        """Ends what add_pre_set_parameters_callback began."""
        self._parameters.pre_callbacks.remove(callback)

    def remove_on_set_parameters_callback(self, callback: _ParametersCallback) -> None:
        """Ends what add_on_set_parameters_callback began."""
        self._parameters.on_set_callbacks.remove(callback)

    def remove_post_set_parameters_callback(self, callback: Callable[[list[Parameter]], None]) -> None:
        """Ends what add_post_set_parameters_callback began."""
        self._parameters.post_callbacks.remove(callback)

    def _on_parameters_changed(self, new: list[Parameter], changed: list[Parameter], deleted: list[Parameter]) -> None:
        if self._parameter_events is None:
            return
        event = message_class("rcl_interfaces/msg/ParameterEvent")(
            stamp=self._clock.now().to_msg(),
            node=self.get_fully_qualified_name(),
            new_parameters=[parameter.to_parameter_msg() for parameter in new],
            changed_parameters=[parameter.to_parameter_msg() for parameter in changed],
            deleted_parameters=[parameter.to_parameter_msg() for parameter in deleted],
        )
        self._parameter_events.publish(event)

    # ------------------------------------------------------------------------------------------------ names and the graph

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """A topic's full name, remapped unless only expanded.

        Raises:
            RCLError: The name breaks ROS's rules.
        """
        return resolve_name(topic, self._name, self._namespace, self._remaps, only_expand=only_expand)

    def resolve_service_name(self, service: str, *, only_expand: bool = False) -> str:
        """A service's full name, remapped unless only expanded.

        Raises:
            RCLError: The name breaks ROS's rules.
        """
        return resolve_name(service, self._name, self._namespace, self._remaps, only_expand=only_expand, is_service=True)

    def _expanded(self, name: str, *, is_service: bool = False) -> str:
        """The full name of a topic or a service, as it is before remapping."""
        full = expand_topic_name(name, self._name, self._namespace)
        validate_full_topic_name(full, is_service=is_service)
        return full

    def _remapped(self, name: str, *, is_service: bool = False) -> str:
        """The full name of a topic or a service that is created; a fault in the name is told in ROS's own exceptions."""
        full = expand_valid_name(name, self._name, self._namespace, is_service=is_service)
        return remap_name(full, self._name, self._namespace, self._remaps, is_service=is_service)

    def get_topic_names_and_types(self, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """The topics of the graph with their types."""
        return self._graph.topics(no_demangle=no_demangle)

    def get_service_names_and_types(self) -> list[tuple[str, list[str]]]:
        """The services of the graph with their types; also those that have clients alone, as in ROS."""
        return self._graph.services()

    def get_service_names_and_types_by_node(self, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """The services that a node offers, with their types.

        Raises:
            NodeNameNonExistentError: There is no such node.
        """
        return self._graph.services_of_node(node_name, node_namespace, clients=False)

    def get_client_names_and_types_by_node(self, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """The services that a node has clients of, with their types.

        Raises:
            NodeNameNonExistentError: There is no such node.
        """
        return self._graph.services_of_node(node_name, node_namespace, clients=True)

    def get_node_names(self) -> list[str]:
        """The names of the graph's nodes."""
        return [name for name, _, _ in self._graph.nodes()]

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        """Names and namespaces of the graph's nodes."""
        return [(name, namespace) for name, namespace, _ in self._graph.nodes()]

    def get_node_names_and_namespaces_with_enclaves(self) -> list[tuple[str, str, str]]:
        """Names, namespaces and enclaves of the graph's nodes."""
        return self._graph.nodes()

    def get_fully_qualified_node_names(self) -> list[str]:
        """The full names of the graph's nodes."""
        return [full_name(namespace, name) for name, namespace, _ in self._graph.nodes()]

    def get_publisher_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """The topics that a node publishes, with their types.

        Raises:
            NodeNameNonExistentError: There is no such node.
        """
        return self._topics_of_node(node_name, node_namespace, no_demangle, publishers=True)

    def get_subscriber_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """The topics that a node subscribes to, with their types.

        Raises:
            NodeNameNonExistentError: There is no such node.
        """
        return self._topics_of_node(node_name, node_namespace, no_demangle, publishers=False)

    def _topics_of_node(self, name: str, namespace: str, no_demangle: bool, *, publishers: bool) -> list[tuple[str, list[str]]]:
        found: dict[str, set[str]] = {}
        for endpoint in self._graph.endpoints_of_node(name, namespace, publishers=publishers):
            if no_demangle:
                found.setdefault(endpoint.dds_topic, set()).add(endpoint.dds_type)
            elif endpoint.dds_topic.startswith("rt/"):
                found.setdefault(endpoint.topic, set()).add(endpoint.type_name)
        return [(topic, sorted(kinds)) for topic, kinds in sorted(found.items())]

    def count_publishers(self, topic_name: str) -> int:
        """How many publishers a topic has in the graph; the name is not remapped."""
        return len(self._graph.endpoints(publishers=True, dds_topic=f"rt{self._expanded(topic_name)}"))

    def count_subscribers(self, topic_name: str) -> int:
        """How many subscriptions a topic has in the graph; the name is not remapped."""
        return len(self._graph.endpoints(publishers=False, dds_topic=f"rt{self._expanded(topic_name)}"))

    def count_services(self, service_name: str) -> int:
        """How many nodes of the graph offer a service; the name is not remapped."""
        return self._graph.count_service(self._expanded(service_name, is_service=True), clients=False)

    def count_clients(self, service_name: str) -> int:
        """How many clients a service has in the graph; the name is not remapped."""
        return self._graph.count_service(self._expanded(service_name, is_service=True), clients=True)

    def get_publishers_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """Everything known of a topic's publishers; no_mangle takes the topic's DDS name."""
        return self._infos(topic_name, TopicEndpointTypeEnum.PUBLISHER, no_mangle)

    def get_subscriptions_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """Everything known of a topic's subscriptions; no_mangle takes the topic's DDS name."""
        return self._infos(topic_name, TopicEndpointTypeEnum.SUBSCRIPTION, no_mangle)

    def _infos(self, topic: str, kind: TopicEndpointTypeEnum, no_mangle: bool) -> list[TopicEndpointInfo]:
        name = topic if no_mangle else f"rt{remap_name(self._expanded(topic), self._name, self._namespace, self._remaps)}"
        found = self._graph.endpoints(publishers=kind is TopicEndpointTypeEnum.PUBLISHER, dds_topic=name)
        return [endpoint_info(endpoint, self._graph.node_of(endpoint), kind, no_mangle=no_mangle) for endpoint in found]

    def wait_for_node(self, fully_qualified_node_name: str, timeout: float) -> bool:
        """Waits until a node is in the graph; False after `timeout` seconds."""
        wanted = f"/{fully_qualified_node_name.lstrip('/')}"
        end = time.monotonic() + timeout
        while (found := wanted in self.get_fully_qualified_node_names()) is False and time.monotonic() < end and self._context.ok():
            time.sleep(_FIND_NODE_EVERY_S)
        return found

    # ------------------------------------------------------------------------------------------------------------ its end

    def destroy_node(self) -> None:
        """Leaves the graph with everything that the node has; nothing can be created after that."""
        if not self._alive:
            return
        executor = self.executor
        if executor is not None:
            executor.remove_node(self)
        self._alive = False
        remove_sink(self._logger.name)
        self._parameter_events = None
        self._graph.remove_node(self)
        publishers = (self._publishers, self._inner_publishers)
        for entities in (*publishers, self._subscriptions, self._clients, self._services, self._timers, self._guards):
            while entities:
                entities.pop().destroy()
        self._context.untrack(self)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy_node()

    def _check_alive(self) -> None:
        if not self._alive:
            raise InvalidHandle("cannot use Destroyable because destruction was requested")


def _names(name: str, namespace: str | None, rules: list[Any]) -> tuple[str, str]:
    """A node's name and namespace after remapping, checked."""
    validate_node_name(name)
    namespace = namespace or "/"
    name, namespace = remap_node(rules, name, namespace if namespace.startswith("/") else f"/{namespace}")
    validate_node_name(name)
    validate_namespace(namespace)
    return name, namespace


def _overrides(arguments: list[Arguments], node: str, given: list[Parameter]) -> dict[str, Parameter]:
    """What the arguments (the most particular come first) and the constructor give instead of defaults."""
    values = {name: value for source in reversed(arguments) for name, value in source.overrides_for(node).items()}
    overrides = {name: Parameter(name, value=value) for name, value in values.items()}
    return overrides | {parameter.name: parameter for parameter in given}


def _profile(qos_profile: QoSProfile | int) -> QoSProfile:
    if isinstance(qos_profile, QoSProfile):
        return qos_profile
    if not isinstance(qos_profile, int):
        raise TypeError(f"Expected QoSProfile or int, but received {type(qos_profile)!r}")
    if qos_profile < 0:
        raise ValueError(f"Got the depth {qos_profile}, expected none below 0.")
    return QoSProfile(depth=qos_profile)


def _dds_name(topic: str, profile: QoSProfile) -> str:
    return topic if profile.avoid_ros_namespace_conventions else f"rt{topic}"


def _remove(entities: list[Any], entity: Any) -> bool:
    if entity not in entities:
        return False
    entities.remove(entity)
    entity.destroy()
    return True


def _descriptor() -> Any:
    return message_class("rcl_interfaces/msg/ParameterDescriptor")()
