# SPDX-License-Identifier: Apache-2.0
"""``longscape view``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.terminal import Figures, Terminal
from longscape_ros.errors import InputError

HERE = "rerun+http://127.0.0.1:9876/proxy"


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("bag", type=Path, nargs="?", metavar="BAG", help="a recording with predictions (default: live from the ROS graph)")
    parser.add_argument("--save", type=Path, metavar="FILE.rrd", help="write a file that Rerun opens, instead of opening a window")
    parser.add_argument("--connect", nargs="?", const=HERE, metavar="URL", help=f"show it in a viewer that runs already (URL: {HERE})")
    parser.add_argument("--web", nargs="?", const=9090, type=int, metavar="PORT", help="serve a page for a browser (PORT: 9090)")
    parser.add_argument("--port", type=int, default=9876, metavar="N", help="where the window or the page gets its data (default: 9876)")
    parser.add_argument("--horizon", type=int, default=0, metavar="N", help="predicted frame beside the camera; 0: the last (default: 0)")
    parser.add_argument("--namespace", default="", metavar="NAME", help="of the predictor, for example /robot_1 (default: any)")
    parser.add_argument("--image", default="", metavar="TOPIC", help="the camera (default: the mapping's, else one that is found)")
    parser.add_argument("--mapping", metavar="FILE|NAME", help="the commands' topics (default: the predictor's, else those that are found)")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long to show the graph (default: until Ctrl-C)")
    parser.add_argument("--use-sim-time", action="store_true", help="receive times of the graph are those of /clock")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Shows a recording, or the graph."""
    from longscape_ros.interrupts import ended_by_sigterm

    with ended_by_sigterm():
        return show(options, terminal)


def show(options: Namespace, terminal: Terminal) -> Figures:
    """The same, until it is interrupted."""
    from longscape_ros.bags.mapping import load_mapping
    from longscape_ros.view.bag import channels_of, only_bag, show_bag
    from longscape_ros.view.blueprint import blueprint
    from longscape_ros.view.drawing import Drawing
    from longscape_ros.view.live import LiveConfig, show_graph
    from longscape_ros.view.scene import SceneConfig
    from longscape_ros.view.target import Target, hold, open_stream
    from longscape_ros.view.topics import Part, Wanted

    mapping = load_mapping(options.mapping) if options.mapping else None
    wanted = Wanted(options.namespace.rstrip("/"), options.image, mapping)
    scene = SceneConfig(options.horizon, namespace=wanted.namespace)
    if mapping is not None:
        scene = replace(scene, image_latency_ns=mapping.image_latency_ns, image_stamp=mapping.image_stamp)
    target = Target(
        save=options.save,
        connect=options.connect or "",
        web=options.web is not None,
        web_port=9090 if options.web is None else options.web,
        data_port=options.port,
    )
    where: Figures = {"meta.output": str(options.save)} if options.save else {}
    if options.bag is None:
        live = LiveConfig(options.seconds, options.use_sim_time)
        layout = blueprint(options.horizon, live=target.save is None, parts=tuple(Part))
        with open_stream(target, "live", layout, terminal.say) as stream:
            return show_graph(wanted, scene, live, Drawing(stream), terminal.say) | where
    if options.seconds is not None or options.use_sim_time:
        raise InputError("Got a recording and --seconds or --use-sim-time, which are for the graph; leave them out.")
    bag = only_bag(options.bag)
    channels = channels_of(bag, wanted)
    layout = blueprint(options.horizon, live=False, parts={channel.part for channel in channels.values()})
    with open_stream(target, bag.stem, layout, terminal.say) as stream:
        with terminal.progress(f"view {bag.name}") as progress:
            figures = show_bag(bag, channels, scene, Drawing(stream), progress)
        if target.web:
            hold(terminal.say)
    return figures | where


COMMAND = Command(
    name="view",
    summary="show camera, predictions, chunks, commands and diagnostics in the Rerun viewer, live or from a recording",
    details="Without BAG it listens to the ROS graph until Ctrl-C. Recordings are those of 'longscape predict', of 'longscape demo' and of "
    "any recorder that took the predictor's topics. Without a display use --save, --web or --connect.",
    example="longscape view run_1_predicted.mcap --horizon 16 --save run_1.rrd",
    add_options=add_options,
    run=run,
    extra="view",
    modules=("rerun",),
)
